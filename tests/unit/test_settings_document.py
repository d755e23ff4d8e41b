"""docs/settings.md is what the settings themselves say, with words for each of them."""

from scripts.generate_settings import PAGE, page


def test_the_page_is_what_the_script_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m scripts.generate_settings"


def test_every_setting_is_explained() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if row.endswith("|  |")] == []


def test_names_bounds_and_defaults_are_those_of_the_fields() -> None:
    rows = page()
    for row in (
        "| `max_batch_size` | integer ≥ 1, ≤ 1024 | `8` | Batches are warmed up to this size;",
        "| `max_body_bytes` | integer > 0 | 10485760 (10 MiB) | Of a request,",
        "| `precision` | `auto`, `fp32`, `bf16`, `fp16`, `int8` | `fp32` |",
        "| `models` | list: [`args.models`](#argsmodels); at least 1 | required |",
        "| `RAY_AUTH_MODE` | `token` |",
    ):
        assert row in rows
