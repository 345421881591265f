"""Memory and energy of a stage, from counters as Linux and NVML show them."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clray.train import meters
from clray.train.meters import Counter, Meters, packages, together

CPU = torch.device("cpu")


def zone(folder, name, about, value, limit=1000):
    (folder / name).mkdir(parents=True)
    for file, text in {"name": about, "energy_uj": value, "max_energy_range_uj": limit}.items():
        (folder / name / file).write_text(f"{text}\n")


def test_whole_packages_are_counted_and_their_parts_are_not(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 10)
    zone(tmp_path, "intel-rapl:0:0", "core", 4)
    zone(tmp_path, "intel-rapl:1", "package-1", 20)
    zone(tmp_path, "intel-rapl:2", "psys", 50)
    assert packages(tmp_path) == {"cpu intel-rapl:0": Counter(10, 1001), "cpu intel-rapl:1": Counter(20, 1001)}
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert list(packages(tmp_path)) == ["cpu intel-rapl:1"]
    assert packages(tmp_path / "absent") == {}


def test_a_counter_that_went_round():
    """From 900 to 100 of a counter that shows 0 to 999: 200 microjoules."""
    assert Counter(900, 1000).joules_until(Counter(100, 1000)) == pytest.approx(200e-6)
    assert Counter(5, 0).joules_until(Counter(2_000_005, 0)) == 2.0


def test_ranks_of_a_machine_share_its_processors():
    """Two machines of two ranks: processors 10 + 20 J, four GPUs of 1, 2, 3 and 4 J, the largest peak 9."""
    ranks = [
        {"host": host, "peak_host_bytes": peak, "joules": {"cpu p0": cpu, f"gpu {peak}": joules}}
        for host, peak, cpu, joules in (
            ("x", 7, 10.0, 1.0),
            ("x", 8, 10.0, 2.0),
            ("y", 9, 20.0, 3.0),
            ("y", 6, 20.0, 4.0),
        )
    ]
    assert together(ranks) == {"peak_host_bytes": 9, "cpu_joules": 30.0, "gpu_joules": 10.0}
    assert together([{"host": "x", "joules": {}}]) == {}


def test_the_peak_is_that_of_the_stage_and_energy_is_absent_without_a_counter(tmp_path, monkeypatch):
    monkeypatch.setattr(meters, "POWERCAP", tmp_path)
    np.ones(400 << 20, dtype=np.uint8)
    own = Meters(CPU)
    after = own.read()
    held = np.ones(100 << 20, dtype=np.uint8)
    more = own.read()
    assert after["joules"] == {} and held.size
    assert 90 << 20 < more["peak_host_bytes"] - after["peak_host_bytes"] < 300 << 20


def test_energy_since_the_meters_were_made(tmp_path, monkeypatch):
    monkeypatch.setattr(meters, "POWERCAP", tmp_path)
    zone(tmp_path, "intel-rapl:0", "package-0", 900_000, limit=10_000_000)
    own = Meters(CPU)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("3900000")
    assert own.read()["joules"] == {"cpu intel-rapl:0": 3.0}
    assert own.read(energy=False)["joules"] == {}


def test_the_counter_of_a_gpu_is_found_by_its_name(monkeypatch):
    """NVML counts millijoules. The library and the device are stand-ins: there is no GPU here."""
    asked = []
    nvml = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: asked.append(uuid),
        nvmlDeviceGetTotalEnergyConsumption=lambda _: 1500,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1-2"))
    assert meters.gpu(torch.device("cuda:0")) == {"gpu GPU-1-2": Counter(1_500_000, 0)} and asked == ["GPU-1-2"]

    def no_counter(_):
        raise RuntimeError("not supported")

    nvml.nvmlDeviceGetTotalEnergyConsumption = no_counter
    assert meters.gpu(torch.device("cuda:0")) == {}
