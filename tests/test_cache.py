"""Generated code on disk: found again, verified, and never the reason that something fails."""

import inspect
import linecache
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
import warnings

import pytest
import torch

from cliffnn import cache
from cliffnn import functional as F


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache folder, and nothing in memory."""
    monkeypatch.setenv("CLIFFNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_modules", {})
    return tmp_path / "cache"


def test_second_use_generates_nothing(fresh, monkeypatch):
    first = cache.load("some_name", lambda: "value = 1\n")
    assert first.value == 1
    monkeypatch.setattr(cache, "_modules", {})
    assert cache.load("some_name", lambda: pytest.fail("generated again")).value == 1


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-3], lambda text: "import os\n", lambda text: "", lambda text: text + "x = 1\n"]
)
def test_a_truncated_or_foreign_file_is_generated_anew(fresh, monkeypatch, damage):
    cache.load("some_name", lambda: "value = 1\nother = 2\n")
    (path,) = fresh.iterdir()
    whole = path.read_text()
    path.write_text(damage(whole))
    monkeypatch.setattr(cache, "_modules", {})
    assert cache.load("some_name", lambda: "value = 1\nother = 2\n").other == 2
    assert path.read_text() == whole


def test_a_file_under_another_name_is_not_executed(fresh, monkeypatch):
    cache.load("some_name", lambda: "value = 1\n")
    (path,) = fresh.iterdir()
    cache.load("other_name", lambda: "value = 2\n")
    (other,) = set(fresh.iterdir()) - {path}
    shutil.copy(other, path)
    monkeypatch.setattr(cache, "_modules", {})
    assert cache.load("some_name", lambda: "value = 1\n").value == 1


def test_source_can_be_read_though_the_folder_is_gone(fresh):
    """Triton reads the source of a kernel at its first launch."""
    module = cache.load("some_name", lambda: "def double(x):\n    return 2 * x\n")
    shutil.rmtree(fresh)
    linecache.checkcache()
    assert inspect.getsource(module.double) == "def double(x):\n    return 2 * x\n"


def test_bytes_that_are_no_text(fresh, monkeypatch):
    cache.load("some_name", lambda: "value = 1\n")
    (path,) = fresh.iterdir()
    path.write_bytes(b"\xff\xfe\x00")
    monkeypatch.setattr(cache, "_modules", {})
    assert cache.load("some_name", lambda: "value = 1\n").value == 1


def test_another_generator_gets_another_file(fresh, monkeypatch):
    cache.load("some_name", lambda: "value = 1\n")
    monkeypatch.setattr(cache, "_modules", {})
    monkeypatch.setattr(cache, "fingerprint", lambda: "another")
    assert cache.load("some_name", lambda: "value = 2\n").value == 2
    assert len(list(fresh.iterdir())) == 2


def test_unwritable_folder_works_with_one_warning(tmp_path, monkeypatch):
    # a file where the folder should be stops even root
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLIFFNN_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(cache, "_modules", {})
    cache._warn_once.cache_clear()
    x = torch.randn(3, 4, 2)
    with pytest.warns(UserWarning, match="cannot be written") as caught:
        out = F.gelu(x, "R2")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        F.rms_norm(x, "R2")
    assert torch.equal(out, x * 0.5 * (1 + torch.erf(x[:, :1] * 0.5**0.5)))


def test_files_are_whole_or_absent(fresh, monkeypatch):
    """A full disk or a kill leaves nothing behind."""
    fresh.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(cache.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            cache.load("some_name", lambda: "value = 1\n")
    assert list(fresh.iterdir()) == []
    cache.load("some_name", lambda: "value = 1\n")
    (path,) = fresh.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_folder_that_vanishes_is_made_again(fresh):
    cache.load("some_name", lambda: "value = 1\n")
    shutil.rmtree(fresh)
    assert cache.load("other_name", lambda: "value = 2\n").value == 2


def test_processes_and_threads_that_start_at_once(tmp_path):
    """All meet an empty folder; all get the same result."""
    script = """
import threading, torch
from cliffnn import functional as F
results = []
x = torch.ones(2, 8, 3)
work = lambda: results.append(F.geometric_product(x, x, "R3").sum().item())
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads], [t.join() for t in threads]
assert len(results) == 4 and len(set(results)) == 1
print(results[0])
"""
    environment = {**os.environ, "CLIFFNN_CACHE_DIR": str(tmp_path)}
    run = [sys.executable, "-c", script]
    processes = [subprocess.Popen(run, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(set(outputs)) == 1
    assert all(not path.name.startswith(".") for path in tmp_path.iterdir())


def sum_of_a_product():
    x = torch.ones(2, 8, 3)
    return F.geometric_product(x, x, "R2,1").sum().item()


def work_of_a_forked_process(queue):
    queue.put(sum_of_a_product())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # it is what is tested
def test_a_process_forked_while_another_thread_generates(fresh):
    """The child meets the lock as the parent's thread left it, and neither waits for ever nor stops collecting."""
    context = multiprocessing.get_context("fork")
    generating = threading.Event()

    def generate():
        generating.set()
        time.sleep(0.5)
        return "value = 1\n"

    thread = threading.Thread(target=cache.load, args=("slow", generate))
    thread.start()
    generating.wait()
    queue = context.SimpleQueue()
    process = context.Process(target=work_of_a_forked_process, args=(queue,), daemon=True)
    process.start()
    process.join(60)
    thread.join()
    if process.is_alive():
        process.kill()
        pytest.fail("the child waits for a lock")
    assert process.exitcode == 0
    assert queue.get() == sum_of_a_product()


def test_import_generates_and_compiles_nothing(tmp_path):
    """`import cliffnn` needs neither kingdon nor Triton; a layer is made without them, too."""
    script = """
import sys, torch
before = set(sys.modules)
import cliffnn, cliffnn.functional, cliffnn.layers, cliffnn.testing
from cliffnn.layers import MVLinear, SGPNormBlock
SGPNormBlock(algebra="R3"), MVLinear(3, 4, "R3")
new = {name.split(".")[0] for name in set(sys.modules) - before}
assert not new & {"kingdon", "triton", "sympy"}, new
assert "torch._dynamo" not in set(sys.modules) - before
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_cuda_without_triton_says_how_to_install_it(monkeypatch):
    from cliffnn import ops

    for name in list(sys.modules):
        if name.startswith("cliffnn.kernels") or name.split(".")[0] == "triton":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("cliffnn.kernels", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ImportError, match="pip install triton"):
        ops._executor(torch.device("cuda"))
