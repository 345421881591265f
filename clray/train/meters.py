"""What a stage used: the most memory, and energy where the machine counts it.

Energy of processors is Intel's RAPL (Linux' powercap; AMD's counters stand there too): of the whole machine, whoever
uses it, and readable by root alone on most systems. That of a GPU is NVML's counter (Volta and newer), of the whole
device. Where there is no counter nothing is recorded; nothing is estimated.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")
PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Counter:
    """Where an energy counter stood, in microjoules, and where it begins again from nothing."""

    value: int
    limit: int

    def joules_until(self, later: Counter) -> float:
        """Energy in joules from here to there. A counter that went round more than once cannot tell."""
        return ((later.value - self.value) % self.limit if self.limit else later.value - self.value) / 1e6


@dataclass
class Meters:
    """A rank's meters, read from when they are made."""

    device: torch.device
    before: dict[str, Counter] = field(init=False)

    def __post_init__(self) -> None:
        with contextlib.suppress(OSError):  # some containers forbid it: then the peak is that of the process
            (PROCESS / "clear_refs").write_text("5")
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.before = counters(self.device)

    def read(self, energy: bool = True) -> dict[str, Any]:
        """Machine, peaks in bytes, and joules by counter since the meters were made; no `energy` where they were made
        after the stage began."""
        after = counters(self.device) if energy else {}
        found: dict[str, Any] = {
            "host": socket.gethostname(),
            "joules": {name: at.joules_until(after[name]) for name, at in self.before.items() if name in after},
        }
        if host := resident_peak():
            found["peak_host_bytes"] = host
        if self.device.type == "cuda":
            found["peak_device_bytes"] = torch.cuda.max_memory_allocated(self.device)
        return found


def together(ranks: list[dict[str, Any]]) -> dict[str, float]:
    """What all ranks used: the largest peak of a rank, and the joules of each counter once.

    Ranks of one machine read the same processors, so those count by machine; a GPU is a rank's own.
    """
    used: dict[str, float] = {}
    for name in ("peak_host_bytes", "peak_device_bytes"):
        if values := [rank[name] for rank in ranks if name in rank]:
            used[name] = max(values)
    once = {(rank["host"], counter): joules for rank in ranks for counter, joules in rank["joules"].items()}
    for kind in ("cpu", "gpu"):
        if values := [joules for (_, counter), joules in once.items() if counter.startswith(kind)]:
            used[f"{kind}_joules"] = sum(values)
    return used


def counters(device: torch.device) -> dict[str, Counter]:
    """Every energy counter that can be read, by name: "cpu ..." of a package, "gpu ..." of the device."""
    return packages() | (gpu(device) if device.type == "cuda" else {})


def packages(folder: Path | None = None) -> dict[str, Counter]:
    """RAPL's counters of whole packages; their parts (cores, memory controller) are in them."""
    found = {}
    for zone in sorted((folder or POWERCAP).glob("*-rapl:*")):
        with contextlib.suppress(OSError, ValueError):
            name = (zone / "name").read_text().strip()
            if zone.name.count(":") == 1 and name.startswith("package"):
                value, limit = (int((zone / file).read_text()) for file in ("energy_uj", "max_energy_range_uj"))
                found[f"cpu {zone.name}"] = Counter(value, limit + 1)
    return found


def gpu(device: torch.device) -> dict[str, Counter]:
    """NVML's counter of the GPU; none without the package nvidia-ml-py, or where the GPU has none."""
    try:
        import pynvml
    except ImportError:
        return {}
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    try:
        pynvml.nvmlInit()
        millijoules = pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(uuid))
    except pynvml.NVMLError:
        return {}
    return {f"gpu {uuid}": Counter(1000 * millijoules, 0)}


def resident_peak() -> int | None:
    """The most memory in bytes that the process had at once since its peak was reset; None where nobody counts it."""
    with contextlib.suppress(OSError):
        for line in (PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return None
