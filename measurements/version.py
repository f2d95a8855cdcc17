"""The version of keyturn. This is the only place that says it; the distribution takes it from here."""

VERSION = "0.1.0"
