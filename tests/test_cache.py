"""Generated code on disk: found again, verified, and never the reason that something fails."""

import gc
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
from cliffnn.__main__ import main


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


SIXTEEN = """
import multiprocessing, threading, torch, kingdon
from cliffnn import cache, functional as F

def work(barrier, results):
    x = torch.arange(24.0).reshape(1, 8, 3).requires_grad_()
    def step():
        barrier.wait(60)
        (grad,) = torch.autograd.grad(F.geometric_product(x, x, "R3").sum(), x)
        results.put(grad.sum().item())
    threads = [threading.Thread(target=step) for _ in range(2)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]

assert not cache._modules and not cache.entries()
# forked, they have imported all that takes time, and meet at the folder within milliseconds
context = multiprocessing.get_context("fork")
barrier, results = context.Barrier(32), context.Queue()
processes = [context.Process(target=work, args=(barrier, results)) for _ in range(16)]
[process.start() for process in processes]
found = {results.get(timeout=60) for _ in range(32)}
[process.join(60) for process in processes]
assert [process.exitcode for process in processes] == [0] * 16
assert len(found) == 1, found
assert [entry.state for entry in cache.entries()] == ["current"] * 2, cache.entries()
assert set(cache.folder().iterdir()) == {entry.path for entry in cache.entries()}
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_sixteen_processes_that_start_at_once(tmp_path, monkeypatch):
    """All meet an empty folder, with two threads each; all get the same gradient, and leave two whole files."""
    monkeypatch.setenv("CLIFFNN_CACHE_DIR", str(tmp_path))
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", SIXTEEN], check=True, timeout=120)


def test_the_command_line_keeps_to_our_files(fresh, capsys):
    """It lists and removes what we wrote, whole or not, by this version or another."""
    main(["cache", "list"])
    assert capsys.readouterr().out == f"        0  bytes in 0 files in {fresh}\n"
    cache.load("some_name", lambda: "value = 1\n")
    (current,) = fresh.iterdir()
    body = "value = 2\n"
    other = fresh / "some_name_0123456789ab.py"
    other.write_text(f"{cache._header(other, body)}\n{body}")
    damaged = fresh / "other_name_0123456789ab.py"
    damaged.write_text(other.read_text())
    abandoned, unfinished = fresh / ".cliffnn-a.py", fresh / ".cliffnn-b.py"
    abandoned.touch()
    os.utime(abandoned, (0, 0))
    unfinished.touch()
    foreign = {fresh / name for name in ("mine.py", "empty_0123456789ab.py", ".cliffnn-c.txt", "folder.py")}
    for path in foreign:
        path.mkdir() if path.name == "folder.py" else path.touch()
    (fresh / "mine.py").write_text("import os\n")
    main(["cache", "path"])
    assert capsys.readouterr().out == f"{fresh}\n"
    main(["cache", "list"])
    *lines, total = capsys.readouterr().out.splitlines()
    listed = {name: state for _, state, name in map(str.split, lines)}
    assert listed == {current.name: "current", other.name: "other", damaged.name: "damaged"}
    size = sum(path.stat().st_size for path in (current, other, damaged))
    assert total.split()[:5] == [str(size), "bytes", "in", "3", "files"]
    main(["cache", "clear"])
    assert capsys.readouterr().out == f"removed 4 files from {fresh}\n"
    assert set(fresh.iterdir()) == {*foreign, unfinished}


def test_a_reader_that_has_seen_enough():
    """As `head`, which closes the pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "cliffnn", "cache", "list"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_line_needs_no_torch(tmp_path):
    environment = {**os.environ, "CLIFFNN_CACHE_DIR": str(tmp_path)}
    run = [sys.executable, "-X", "importtime", "-m", "cliffnn", "cache", "path"]
    result = subprocess.run(run, env=environment, check=True, capture_output=True, text=True)
    assert result.stdout == f"{tmp_path}\n"
    assert not {"torch", "kingdon"} & {line.split("|")[-1].strip() for line in result.stderr.splitlines()}


def test_a_title_in_any_alphabet_on_any_system(fresh, tmp_path):
    """What a user writes above an expression goes to disk and back, whatever the system's encoding."""
    text = "'''eine größere Fläche'''\r\nvalue = 1\n"
    script = f"from cliffnn import cache; print(cache.load('some_name', lambda: {text!a}).value)"
    ascii_only = {**os.environ, "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    run = [sys.executable, "-W", "error", "-c", script]
    assert subprocess.check_output(run, env=ascii_only) == b"1\n"
    assert cache.load("some_name", lambda: pytest.fail("generated again")).value == 1


def test_no_collection_interrupts_or_follows_a_generation(fresh):
    """Walking all objects of torch takes longer than most generations."""
    kept, collections = [], []

    def generate():
        kept.extend([] for _ in range(100_000))
        return "value = 1\n"

    def count(phase, info):
        collections.append(phase)

    gc.callbacks.append(count)
    try:
        cache.load("some_name", generate)
    finally:
        gc.callbacks.remove(count)
    assert not collections
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


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
SGPNormBlock(algebra="R3"), SGPNormBlock(4, "R3"), MVLinear(3, 4, "R3")
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
        ops._executor.__wrapped__("cuda")
