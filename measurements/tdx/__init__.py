"""Intel TDX: MRTD and RTMR0 to RTMR3 of a trust domain, from files."""
