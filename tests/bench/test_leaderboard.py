"""Many measurements ranked on one page."""

from dataclasses import replace

from stride.bench.leaderboard import leaderboard
from stride.bench.report import to_html


def test_the_fastest_stands_first_and_machines_stand_apart(tmp_path, measured):
    slow, fast, other = (measured(tmp_path / name, seconds) for name, seconds in (("a", 2.0), ("b", 1.0), ("c", 9.0)))
    slow.results.targets[0].label, fast.results.targets[0].label = "slow", "fast <b>"
    other.manifest = replace(other.manifest, machine={**other.manifest.machine, "cpu": "Another CPU"})
    sections = leaderboard([slow, fast, other])
    assert [section.title for section in sections] == ["How to read it", "Another CPU", "Test CPU"]
    chart, table = sections[-1].blocks
    assert chart.alt == "Generation speed in tok/s. 1. fast <b>: 200.0; 2. slow: 100.0."
    assert sections[1].blocks[0].name != chart.name
    assert [tuple(row[:3]) for row in table.rows] == [
        ("1", "**fast \\<b\\>**", "200.0 (200.0)"),
        ("2", "**slow**", "100.0 (100.0)"),
    ]
    assert "fast &lt;b&gt;" in to_html("Leaderboard", sections)
