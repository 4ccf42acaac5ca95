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
ARM = {"asimddp", "i8mm"}
REDUCED_LEVELS = 63  # of int8 weights: 2 * 255 * 63 fits the 16 bits in which x86 before VNNI adds two products up
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
        arm = not self.instructions and platform.machine().lower() in ("aarch64", "arm64")
        return arm or not (EXACT_INT8 | ARM).isdisjoint(self.instructions)


def compare_processors(made: Processor, here: Processor, levels: int | None) -> str:
    """Return why an int8 file that was made on one processor is not right for another; empty: it is.

    `levels`: the largest whole number of its weights; None: a float file.
    """
    if levels is None or not here.instructions or here.adds_int8_exactly == made.adds_int8_exactly:
        return ""
    if levels > REDUCED_LEVELS and not here.adds_int8_exactly:
        return (
            f"its int8 weights go up to {levels}, for processors with VNNI such as the one it was made on, "
            f"{made.name}; on {here.name}, which has none, sums overflow and vectors may be wrong"
        )
    if levels <= REDUCED_LEVELS and here.adds_int8_exactly:
        return (
            f"its int8 weights go up to {levels}, for processors without VNNI such as the one it was made on, "
            f"{made.name}; {here.name} can do with finer ones"
        )
    return ""


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


def read_mapped() -> dict[str, int]:
    """Return the bytes of each file but libraries that this process has in its memory by mapping, as Linux says.

    Weights that were mapped are in none of a process's own counts until they are used, and then in the files' count.
    """
    path = Path("/proc/self/maps")
    mapped: dict[str, int] = {}
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        reach, _, _, _, _, *name = line.split(maxsplit=5)
        if name and name[0].startswith("/") and ".so" not in Path(name[0]).name:
            start, end = (int(number, 16) for number in reach.split("-"))
            mapped[name[0]] = mapped.get(name[0], 0) + end - start
    return mapped


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
