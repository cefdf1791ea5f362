"""Every way to say how much is cut."""

import pytest
import yaml

from runs import SMALL

PLAIN = ["--criterion", "random", "--compensate", "none", "--json", *SMALL]


@pytest.mark.parametrize(
    ("kind", "scope"), [("macs", "calibrated"), ("params", "global"), ("bytes", "layer"), ("bytes", "global")]
)
def test_costs(infprune, kind, scope):
    share = infprune("prune", f"--{kind}", "0.6", "--scope", scope, *PLAIN).json[kind]
    assert 0.5 < share["after"] / share["before"] <= 0.6
    number = infprune("prune", f"--{kind}", int(share["after"]), "--scope", scope, *PLAIN).json[kind]
    assert number["after"] == share["after"]


def test_milliseconds(infprune):
    result = infprune("prune", "--latency", "1e9", *PLAIN).json
    assert result["rate_achieved"] == 0  # the dense network is fast enough
    refused = infprune("prune", "--latency", "0.0001", *PLAIN)
    assert refused.code == 4
    assert "latency 0.0001 of the dense" in refused.json["error"]


def test_scores_show_what_a_budget_of_time_keeps(infprune):
    words = ["score", "--criterion", "random", "prune.scope=global", "--json", *SMALL]
    assert infprune(*words, "prune.latency=1e9").json["rate_achieved"] == 0
    refused = infprune(*words, "prune.latency=1e-6")
    assert refused.code == 4
    assert "latency 1e-06 of the dense" in refused.json["error"]


def test_layers_with_a_rate_of_their_own(infprune):
    result = infprune("prune", "--rate", "0.5", "prune.per_layer={stages.0.conv1: 0.25, conv1: 0}", *PLAIN).json
    kept = {row["name"]: (row["kept"], row["channels"]) for row in result["layers"]}
    assert kept["conv1"][0] == kept["conv1"][1]
    assert kept["stages.0.conv1"][0] == 0.75 * kept["stages.0.conv1"][1]
    assert result["rate_achieved"] == 0.5
    refused = infprune("prune", "prune.per_layer={conv1: 1.5}", *PLAIN)
    assert refused.code == 2
    assert "prune.per_layer" in refused.json["error"]


def test_a_drop_alone_searches_the_rate_and_its_record_repeats_it(infprune, tmp_path):
    words = ["--criterion", "influence", "--json", *SMALL]
    result = infprune("prune", "--max-drop", "0.03", *words).json
    search = result["search"]
    probes = {probe["rate"]: probe["accuracy"] for probe in search["probes"]}
    good = [rate for rate, accuracy in probes.items() if search["dense"] - accuracy <= 0.03]
    assert search["rate"] == max(rate for rate in good if all(r in good for r in probes if r < rate))
    assert any(rate > search["rate"] for rate in probes)
    assert 0 < search["rate"] - result["rate_achieved"] < 0.01
    assert len(search["probes"]) > 2
    assert search["correlation"] > 0.9
    recorded = yaml.safe_load((tmp_path / result["run_dir"] / "config.yaml").read_text())
    assert recorded["prune"]["rate"] == search["rate"]
    first = (tmp_path / result["artifact"]).read_bytes()
    again = infprune("prune", "-c", f"{result['run_dir']}/config.yaml", "--json").json
    assert again["search"] is None
    assert (tmp_path / again["artifact"]).read_bytes() == first


def test_a_drop_beside_a_budget_is_a_gate(infprune):
    outcome = infprune("prune", "--rate", "0.9", "--max-drop", "0.03", *PLAIN)
    assert outcome.code == 5
    assert outcome.json["search"] is None
    assert outcome.json["missed"]


def test_a_drop_that_no_rate_keeps(infprune):
    outcome = infprune("prune", "--max-drop", "0", "prune.per_layer={stages.0.conv1: 0.95}", *PLAIN)
    assert outcome.code == 4
    assert "max_drop 0: every rate that was tried loses more validation accuracy" in outcome.json["error"]


def test_the_search_starts_at_what_layers_lose_anyway(infprune):
    result = infprune("prune", "--max-drop", "1", "prune.per_layer={'stages.[12]*': 0.75}", *PLAIN).json
    assert min(probe["rate"] for probe in result["search"]["probes"]) > 0.45
    assert result["search"]["rate"] >= min(probe["rate"] for probe in result["search"]["probes"])


def test_scores_without_curves_serve_other_scopes_only(infprune):
    made = infprune("score", "--criterion", "random", "prune.scope=layer", "-o", "s.safetensors", *SMALL)
    assert made.code == 0, made.err
    refused = infprune("prune", "--scores", "s.safetensors", *PLAIN)
    assert refused.code == 6
    assert "scores without curves" in refused.json["error"]
    assert infprune("prune", "--scores", "s.safetensors", "--scope", "global", *PLAIN).code == 0
