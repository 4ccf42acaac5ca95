"""A short run of tests/fuzz.py, whose long form is run by hand: python tests/fuzz.py --cases 10000."""

from pathlib import Path

from fuzz import quick

SEED, CASES = 20, 150


def test_malformed_inputs_end_in_one_line_or_a_right_result(tmp_path: Path) -> None:
    wrong = []
    with quick(tmp_path, SEED) as fuzz:
        for number in range(CASES):
            kind, told, outcome = fuzz.run_case(number)
            if outcome.verdict not in ("ok", "refused"):
                wrong.append(f"case {number} {kind} [{told}] {outcome.verdict}: {outcome.detail}")
    assert wrong == []
