"""The system calls that a container may make: an allow-list, everything else fails with EPERM.

Reviewed against the default profile of Docker/Moby (``profiles/seccomp/default.json``), x86-64 only, and
narrower: no io_uring, no keyrings, no userfaultfd, no NUMA placement, no socket families but UNIX, IPv4, IPv6
and netlink, no 32-bit system calls. ``clone`` makes no namespaces; ``clone3``, whose flags a filter cannot
see, fails with ENOSYS, so that the C library falls back to ``clone``. Calls that need a capability come with
it.

Form: OCI runtime specification 1.2, ``linux.seccomp``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

EPERM, ENOSYS = 1, 38
_NEW_NAMESPACES = 0x7E020000
_FAMILIES = {"unix": 1, "inet": 2, "inet6": 10, "netlink": 16}
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

_ALLOWED = """
accept accept4 access alarm arch_prctl bind brk cachestat capget capset chdir chmod chown clock_getres
clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create
epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit
exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl
fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex
futex_requeue futex_wait futex_waitv futex_wake getcpu getcwd getdents getdents64 getegid geteuid getgid
getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid
getrlimit get_robust_list getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr
inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
io_pgetevents io_setup io_submit ioctl ioprio_get ioprio_set kill landlock_add_rule
landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listxattr llistxattr
lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier memfd_create mincore mkdir mkdirat
mknod mknodat mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap nanosleep
newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 pselect6 pwrite64 pwritev pwritev2 read
readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr rename renameat
renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_getaffinity sched_getattr
sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield select semctl semget semop
semtimedop sendfile sendmmsg sendmsg sendto setfsgid setfsuid setgid setgroups setitimer setpgid
setpriority setregid setresgid setresuid setreuid setrlimit set_robust_list setsid setsockopt
set_tid_address setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4
socketpair splice stat statfs statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
timerfd_settime times tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork vmsplice
wait4 waitid write writev
"""
ALLOWED = tuple(_ALLOWED.split())

WITH_CAPABILITY = {
    "CAP_SYS_CHROOT": ("chroot",),
    "CAP_SYS_TIME": ("adjtimex", "clock_adjtime", "clock_settime", "settimeofday"),
    "CAP_SYS_NICE": ("get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"),
    "CAP_SYS_PTRACE": ("kcmp", "pidfd_getfd", "process_vm_readv", "process_vm_writev", "ptrace"),
    "CAP_SYS_PACCT": ("acct",),
}
"""Further calls that a listed capability brings."""


def seccomp(capabilities: Iterable[str] = ()) -> dict[str, Any]:
    """``linux.seccomp`` of a container with ``capabilities``."""
    further = sorted({name for each in capabilities for name in WITH_CAPABILITY.get(each, ())})
    rules: list[dict[str, Any]] = [
        {"names": [*ALLOWED, *further], "action": "SCMP_ACT_ALLOW"},
        _when("clone", 0, _NEW_NAMESPACES, "SCMP_CMP_MASKED_EQ", second=0),
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS},
        *(_when("socket", 0, family, "SCMP_CMP_EQ") for family in _FAMILIES.values()),
        *(_when("personality", 0, value, "SCMP_CMP_EQ") for value in _PERSONALITIES),
    ]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": rules,
    }


def _when(name: str, index: int, value: int, operator: str, *, second: int | None = None) -> dict[str, Any]:
    condition = {"index": index, "value": value, "op": operator}
    if second is not None:
        condition["valueTwo"] = second
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [condition]}
