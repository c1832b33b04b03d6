"""What is said of a checkout that git does not answer for: nothing that is not known."""

import os
import subprocess

import pytest

from nmsim.support import checkout as checkouts
from nmsim.support.checkout import Checkout, checkout


def git(folder, *arguments):
    own = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    run = subprocess.run(
        ["git", "-C", str(folder), *own, *arguments], capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_a_commit_is_known_and_so_is_a_change(repository):
    commit = git(repository, "rev-parse", "HEAD")
    assert checkout(repository) == Checkout(commit, False)
    (repository / "new").write_text("two")
    assert checkout(repository) == Checkout(commit, True)


def test_an_unpacked_archive_is_unknown_even_inside_another_repository(repository):
    (repository / "unpacked").mkdir()
    assert checkout(repository / "unpacked") == Checkout("", None)


def test_a_repository_without_a_commit_is_unknown(tmp_path):
    git(tmp_path, "init", "-q")
    assert checkout(tmp_path) == Checkout("", None)


def test_git_that_is_missing_leaves_all_unknown(repository, monkeypatch):
    monkeypatch.setenv("PATH", str(repository))
    assert checkout(repository) == Checkout("", None)


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ("exit 128", Checkout("", None)),  # as for a folder of another user
        ("case $3 in rev-parse) echo 0123abc;; *) exit 128;; esac", Checkout("0123abc", None)),
        ("case $3 in rev-parse) echo 0123abc;; *) exec sleep 5;; esac", Checkout("0123abc", None)),
        ("echo", Checkout("", None)),
    ],
)
def test_what_git_refuses_is_unknown(repository, monkeypatch, answers, found):
    tools = repository / "tools"
    tools.mkdir()
    (tools / "git").write_text(f"#!/bin/sh\n{answers}\n")
    (tools / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(checkouts, "ANSWER_S", 0.5)
    assert checkout(repository) == found
