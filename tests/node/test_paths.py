"""Container paths become paths of the machine wherever they stand, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nascale.local.node.paths import PathRewriter

DATA = PathRewriter(
    {"/data": "/host/volumes/d", "/data/deep": "/host/volumes/deep", "/dev/termination-log": "/m"}
)


@pytest.mark.parametrize(
    ("text", "rewritten"),
    [
        ("/data", "/host/volumes/d"),
        ("/data/", "/host/volumes/d/"),
        ("/data/x.csv", "/host/volumes/d/x.csv"),
        ("--root=/data", "--root=/host/volumes/d"),
        ('{"root": "/data"}', '{"root": "/host/volumes/d"}'),
        ("cat /data/x>/data/y", "cat /host/volumes/d/x>/host/volumes/d/y"),
        ("/opt:/data:/usr", "/opt:/host/volumes/d:/usr"),
        ("file:///data/x", "file:///host/volumes/d/x"),
        ("(/data)", "(/host/volumes/d)"),
        ("/data;echo", "/host/volumes/d;echo"),
        ("/data/deep/x /data/deeper", "/host/volumes/deep/x /host/volumes/d/deeper"),
        ("echo ok > /dev/termination-log", "echo ok > /m"),
        ("$(cat /data/x)", "$(cat /host/volumes/d/x)"),
    ],
)
def test_a_path_between_boundaries_is_replaced(text: str, rewritten: str):
    assert DATA.rewrite(text) == rewritten


@pytest.mark.parametrize(
    "text",
    [
        "/database",
        "/data.bak",
        "/data-2",
        "/data_2",
        "/data~",
        "/data*",
        "/data{1,2}",
        "/data$SUFFIX",
        "/datä",
        "/mnt/data",
        "./data",
        "../data",
        "~/data",
        "$HOME/data",
        "${HOME}/data",
        "$(pwd)/data",
        "/mnt/*/data",
        "https://host/data",
        "//data",
        "s3://data/x",
        "data",
        "",
    ],
)
def test_a_part_of_something_longer_stays(text: str):
    assert DATA.rewrite(text) == text


def test_a_replacement_is_not_replaced_again():
    swapped = PathRewriter({"/a": "/b", "/b": "/a"})
    assert swapped.rewrite("/a /b /a/b") == "/b /a /b/b"


@pytest.mark.parametrize("path", ["/", "//", "data", ""])
def test_a_mount_path_must_be_absolute_and_below_the_root(path: str):
    with pytest.raises(ValueError, match="mountPath: must be an absolute path below /"):
        PathRewriter({path: "/host"})


def test_a_trailing_slash_of_a_mount_path_means_nothing():
    assert PathRewriter({"/data/": "/host"}).rewrite("/data/x /data") == "/host/x /host"


names = st.text("abcxyz019", min_size=1, max_size=4)
paths = st.lists(names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
mounts = st.sets(paths, min_size=1, max_size=5).map(
    lambda found: {path: f"/HOST/{index}" for index, path in enumerate(sorted(found))}
)
separators = st.sampled_from([" ", '"', "'", "=", ":", ",", ";", ">", "<", "|", "&", "\n", "\t", "(", "`"])


def expected(path: str, real: dict[str, str]) -> str:
    """The longest mount that holds the path, by comparing whole names."""
    parts = path.split("/")
    for length in range(len(parts), 1, -1):
        prefix = "/".join(parts[:length])
        if prefix in real:
            return "/".join([real[prefix], *parts[length:]])
    return path


@given(mounts, st.lists(st.tuples(separators, paths | names), max_size=6))
def test_rewriting_agrees_with_a_comparison_of_whole_names(
    real: dict[str, str], words: list[tuple[str, str]]
):
    text = "".join(separator + word for separator, word in words)
    wanted = "".join(
        separator + (expected(word, real) if word.startswith("/") else word) for separator, word in words
    )
    assert PathRewriter(real).rewrite(text) == wanted


@given(mounts, paths)
def test_a_single_path_is_found_like_a_path_in_a_text(real: dict[str, str], path: str):
    found = PathRewriter(real).rewrite_path(path)
    wanted = expected(path, real)
    assert (found or path) == wanted
    assert (found is None) == (wanted == path)


@given(st.text(), mounts)
def test_a_text_without_a_mount_path_stays_as_it_is(text: str, real: dict[str, str]):
    if not any(path in text for path in real):
        assert PathRewriter(real).rewrite(text) == text
