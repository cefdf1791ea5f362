"""The published JSON Schemas: up to date, true of what older releases printed, and able to say no."""

import json
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from jsonschema import Draft202012Validator, ValidationError
from safetensors import safe_open

from infprune.report.schema import MANIFESTS, RESULTS, publish, schema

ROOT = Path(__file__).parents[2]
STORED = ROOT / "tests/stored/v1"
EXAMPLES = sorted(STORED.glob("*.json"))
NAMES = sorted({**RESULTS, **MANIFESTS})


def validator(name=None):
    return Draft202012Validator(json.loads(schema(name)))


@pytest.mark.parametrize("name", NAMES)
def test_the_published_copy_is_up_to_date(name):
    published = json.loads((ROOT / f"docs/schema/{name}.json").read_text())
    assert published == json.loads(schema(name)), "run `make schema`"
    Draft202012Validator.check_schema(published)


def test_nothing_else_is_published(tmp_path):
    publish(tmp_path)
    assert {p.name for p in (ROOT / "docs/schema").iterdir()} == {p.name for p in tmp_path.iterdir()}


def test_every_result_has_an_example():
    assert {path.stem.partition("-")[0] for path in EXAMPLES} == set(RESULTS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_stored_results_validate(path):
    """Files of earlier releases: prune.json, for one, is older than gates and dry runs."""
    content = json.loads(path.read_text())
    name = path.stem.partition("-")[0]
    assert content["schema_version"] == 1
    validator(name).validate(content)
    validator().validate(content)
    for key in ("schema_version", *(["exit_code"] if name == "error" else [])):
        with pytest.raises(ValidationError):
            validator(name).validate(content | {key: "one"})
        with pytest.raises(ValidationError):
            validator(name).validate({k: v for k, v in content.items() if k != key})


PUBLISHED = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "docs/results").glob("*.json"))}
OURS = [stem for stem, content in PUBLISHED.items() if "schema_version" in content]  # the others are tables of scripts


@pytest.mark.parametrize("stem", OURS)
def test_published_measurements_validate(stem):
    content = PUBLISHED[stem]
    validator(content["command"]).validate(content)
    with pytest.raises(ValidationError):
        validator(content["command"]).validate(content | {"seconds": "long"})


@pytest.mark.parametrize("name", sorted(set(RESULTS) - {"error"}))
def test_every_result_names_itself(name):
    kinds = get_args(RESULTS[name]) or (RESULTS[name],)
    for kind in kinds:
        named = {f.name: f.type for f in fields(kind)}
        assert name in get_args(named["command"])


def test_a_result_of_another_command_is_refused():
    content = json.loads((STORED / "evaluate.json").read_text())
    with pytest.raises(ValidationError):
        validator("prune").validate(content)
    with pytest.raises(ValidationError):
        validator("evaluate").validate(content | {"accuracy": "high"})


def test_fields_of_a_later_release_are_allowed():
    content = json.loads((STORED / "prune.json").read_text())
    validator("prune").validate(content | {"colour": "red", "search": None})


@pytest.mark.parametrize("file", ["pruned", "scores", "sample-scores"])
def test_stored_manifests_validate(file):
    with safe_open(STORED / f"{file}.safetensors", framework="pt") as opened:
        content = json.loads(opened.metadata()["infprune"])
    name = f"{content['kind']}-manifest"
    validator(name).validate(content)
    with pytest.raises(ValidationError):
        validator(name).validate({k: v for k, v in content.items() if k != "seed"})
