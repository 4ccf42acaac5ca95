"""The processor: its name, the instructions for whole numbers and bfloat16, cores to use; this process's memory."""

import ctypes
import gc
import os
import platform
from dataclasses import dataclass
from pathlib import Path

# As /proc/cpuinfo calls them: x86 first, ARM's last two.
INSTRUCTIONS = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm",
)  # fmt: skip
EXACT_INT8 = {"avx_vnni", "avx512_vnni", "amx_int8"}
CPUINFO = Path("/proc/cpuinfo")
SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Processor:
    name: str
    instructions: tuple[str, ...]  # of INSTRUCTIONS, those it has
    cores: int  # that this process may use

    @property
    def adds_int8_exactly(self) -> bool:
        """False where two products of int8 are added up in 16 bits, which overflow: x86 before VNNI."""
        arm = platform.machine().lower() in ("aarch64", "arm64")
        return arm or not EXACT_INT8.isdisjoint(self.instructions)


def read_processor(cpuinfo: Path = CPUINFO) -> Processor:
    """Return what Linux says of the processor; elsewhere its name alone, with no instructions known."""
    fields: dict[str, str] = {}
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else ():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return Processor(name, tuple(each for each in INSTRUCTIONS if each in flags), count_cores())


def count_cores() -> int:
    """Return how many threads compute best: the physical cores this process may run on, within a container's quota.

    OMP_NUM_THREADS, which torch obeys, caps it. joblib.cpu_count(only_physical_cores=True) answers otherwise (joblib
    1.6): as soon as an affinity or a quota is set it counts hyper-threads as cores, and it rounds a quota of 1.5 cores
    up to 2.
    """
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = len({read_siblings(number) for number in usable})
    asked = os.environ.get("OMP_NUM_THREADS", "")
    limits = [cores, read_quota(QUOTA) or cores, int(asked) if asked.isdigit() else cores]
    return max(1, min(limits))


def read_siblings(number: int) -> str:
    """Return the name of the physical core that a logical one is part of."""
    path = Path(SIBLINGS.format(number))
    return path.read_text().strip() if path.is_file() else str(number)


def read_quota(path: Path) -> int | None:
    """Return the whole cores of a control group's quota (`max 100000` or `150000 100000`), at least one."""
    if not path.is_file():
        return None
    quota, _, period = path.read_text().strip().partition(" ")
    return max(1, int(quota) // int(period)) if quota.isdigit() and period.isdigit() else None


def read_memory(field: str) -> int | None:
    """Return bytes that this process holds (VmRSS, RssAnon, its peak VmHWM), as Linux counts them; elsewhere None."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


def free_memory() -> None:
    """Free dropped models, and give freed memory back to the system.

    Each SentenceTransformer is a cycle (its card's data refers to it): dropped, it stays until Python's collector
    comes by, which counts objects, however large they are.
    """
    gc.collect()
    trim_memory()


def trim_memory() -> None:
    """Give freed memory back to the system, where the C library is glibc; elsewhere nothing happens."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
