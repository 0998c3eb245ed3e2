"""What a newcomer meets: the README's example, and a wheel that installs."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_example_of_the_readme(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["volume"].shape == (100, 1, 1)


def test_links_of_the_readme_and_docs():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_wheel_is_pure_python_and_imports_elsewhere(tmp_path):
    pytest.importorskip("build")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert "cliffnn/py.typed" in names
    assert "cliffnn/kernels/source.py" in names
    assert not [name for name in names if not name.startswith(("cliffnn/", "cliffnn-"))]
    script = "import cliffnn, cliffnn.layers; print(cliffnn.__file__)"
    # isolated from the working directory and from the environment's own installation
    run = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); {script}"]
    out = subprocess.run(run, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert out.startswith(str(tmp_path))


def test_what_the_docs_say_of_pytorch_is_tested():
    """Each row of the table names files and tests in them; each file that is about torch is named."""
    page = (ROOT / "docs" / "pytorch.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "tests |" not in line]
    assert rows
    named = set()
    for row in rows:
        held_by = re.findall(r"\]\(\.\./tests/(test_\w+\.py)\): ((?:`test_\w+`(?:, )?)+)", row)
        assert len(held_by) == row.count("(../tests/") > 0, row
        for file, tests in held_by:
            source = (ROOT / "tests" / file).read_text()
            missing = [test for test in re.findall(r"\w+", tests) if f"\ndef {test}(" not in source]
            assert not missing, f"{file}: {missing}"
            named.add(file)
    about_torch = "compile export pytorch training functorch forces distributed flops modules models"
    assert {f"test_{word}.py" for word in about_torch.split()} <= named
