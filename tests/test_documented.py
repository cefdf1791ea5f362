"""What counts as a documented block, and when what it shows is printed."""

import pytest

from documented import PAGES, blocks, missing, steps


def one(comment, fence):
    (block,) = blocks(f"Text.\n\n{comment}\n\n{fence}\n")
    return block


CONSOLE = "```console\n$ infprune prune\n```"


def test_pages_are_found():
    names = {page.name for page in PAGES}
    assert {"README.md", "quickstart.md", "0008-joint-training.md"} <= names


def test_a_block_without_a_comment_is_run():
    block = one("", CONSOLE)
    assert (block.runs, block.slow, block.fault, str(block)) == (True, False, "", "page.md:5")


def test_comments_say_how():
    assert one("<!-- slow -->", CONSOLE).slow
    assert one("<!-- with: a.b=1 c=2 -->", CONSOLE).words == ("a.b=1", "c=2")
    both = one("<!-- slow with: a.b=1 -->", CONSOLE)
    assert (both.slow, both.words) == (True, ("a.b=1",))
    assert one("<!-- file: a/b.py -->", "```python\nx = 1\n```").file == "a/b.py"
    left_out = one("<!-- not run: needs MNIST -->", CONSOLE)
    assert (left_out.runs, left_out.why_not) == (False, "needs MNIST")


@pytest.mark.parametrize(
    ("comment", "fence"),
    [
        ("<!-- notrun: needs MNIST -->", CONSOLE),
        ("<!-- not run: -->", CONSOLE),
        ("", "```yaml\na: 1\n```"),
        ("", "```console\ninfprune prune\n```"),
        ("", "```\ninfprune prune\n```"),
        ("", "```sh\ninfprune prune\n```"),
    ],
)
def test_what_is_neither_run_nor_explained_is_a_fault(comment, fence):
    assert one(comment, fence).fault


def test_a_comment_counts_for_the_next_block_alone():
    first, second = blocks(f"<!-- slow -->\n\n{CONSOLE}\n\n{CONSOLE}\n")
    assert (first.slow, second.slow) == (True, False)


def test_commands_and_what_is_shown():
    text = "```console\n$ infprune a \\\n    b=1\nfirst\nsecond\n$ infprune c\n```"
    assert steps(one("", text)) == [("infprune a b=1", "first\nsecond"), ("infprune c", "")]


PRINTED = "digits: influence, 50.0% removed\n┃ layer │ kept ┃\n│ conv1 │   12 │\nWrote x in 3.1 s\n"


def test_numbers_frames_and_omissions_do_not_count():
    assert not missing("digits: influence, 49.5% removed\n...\n│ conv1 │ 1,024 │\nWrote x in 14.9 s", PRINTED)
    assert not missing("Faster: pruned takes 0.8x", "No speed-up on this machine: pruned takes 1.0x")


def test_whole_numbers_count_when_asked():
    assert not missing("│ conv1 │ 12 │\nWrote x in 14.9 s", PRINTED, exactly=True)
    assert missing("│ conv1 │ 13 │", PRINTED, exactly=True)


@pytest.mark.parametrize("shown", ["digits: gate, 50.0% removed", "┃ layer ┃ lost ┃", "Wrote x in 3 s\n│ conv1 │ 12 │"])
def test_other_words_and_another_order_count(shown):
    assert missing(shown, PRINTED)
