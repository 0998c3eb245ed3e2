"""Every kind of kernel compiles for GPUs that are not there, and keeps to its registers."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("triton")

# Bytes of stack that a kernel is known to use; every other uses none. R3's backward with two channels a thread is
# faster with them than it is reading the result instead of computing it (docs/kernels.md).
KNOWN_SPILLS = {("R3", "512", "vjp"): 64}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """The report, made in a process of its own: in this one Triton interprets."""
    path = tmp_path_factory.mktemp("report") / "report.json"
    run = [sys.executable, "-W", "error::UserWarning", "-m", "benchmarks.compile_report", "--quick", "--output", path]
    subprocess.run(run, check=True)
    report = json.loads(path.read_text())
    assert not report["errors"]
    return report["kernels"]


def kind(kernel):
    """What a kernel computes; sums are those of weight gradients over programs."""
    if kernel["kernel"] == "sums_kernel":
        return "sums"
    return "vjp" if "_vjp_" in kernel["kernel"] else "forward"


@pytest.mark.parametrize("algebra", ["R2", "R3", "R1,3"])
def test_no_kernel_spills_registers(kernels, algebra):
    kernels = [kernel for kernel in kernels if (kernel["device"], kernel["algebra"]) == ("sm_90", algebra)]
    assert {kind(kernel) for kernel in kernels} == {"forward", "vjp", "sums"}
    for kernel in kernels:
        assert kernel["registers"] > 0
        assert kernel["stack"] <= KNOWN_SPILLS.get((algebra, kernel["channels"], kind(kernel)), 0), kernel


def test_every_kernel_fits_its_device(kernels):
    assert {kernel["device"] for kernel in kernels} == {"sm_90", "gfx942"}
    for kernel in kernels:
        assert kernel["fits"], kernel
