"""The tables of the page: each a dictionary from a column's head to what a row says in it."""

from collections.abc import Callable

from evaluation.report import interval, of_columns
from evaluation.study.settings import TEACHER, StudyConfig


def number(found: dict | None, scale: float = 1, form: str = ".1f") -> str:
    """A value with its interval where it has one; `not reached` where there is none."""
    if found is None:
        return "not reached"
    return interval(found, scale, form) if found["low"] is not None else format(scale * found["value"], form)


def plain(value: float | None, scale: float = 1, form: str = ".1f") -> str:
    return "–" if value is None else format(scale * value, form)


def p_text(p: float | None) -> str:
    return "–" if p is None else f"{p:.2g}" if p >= 0.001 else "< 0.001"


def contrast_table(study: StudyConfig, rows: list[dict]) -> str:
    def unit(r: dict) -> float:
        return 100 if r["measure"] == "accuracy" else 1

    columns = {
        "row": lambda r: r["id"],
        "question": lambda r: r["question"],
        "a": lambda r: study.label(r["a"]),
        "b": lambda r: study.label(r["b"]),
        "measure": lambda r: r["measure"],
        "seeds": lambda r: str(r["seeds"]),
        "of a": lambda r: plain(r["a_value"], unit(r)),
        "of b": lambda r: plain(r["b_value"], unit(r)),
        "a - b [95 %]": lambda r: number(r["difference"], unit(r), "+.1f"),
        "p": lambda r: p_text((r["difference"] or {}).get("p")),
        "p, Holm": lambda r: p_text(r.get("holm")),
        "verdict": lambda r: r["verdict"],
    }
    return of_columns(columns, rows)


def arm_table(study: StudyConfig, rows: list[dict]) -> str:
    columns = {
        "row": lambda r: f"{r['world']}/{r['arm']}",
        "arm": lambda r: study.label(r["arm"]),
        "seeds": lambda r: "–" if r["arm"] == TEACHER else str(len(r["seeds"])),
        "rate x steps": lambda r: "–" if r["arm"] == TEACHER else f"{r['learning_rate']:g} x {r['steps']}",
        "accuracy at the budget, %": lambda r: number(r["accuracy"], 100),
        "NFE spent": lambda r: plain(r["spent"]),
        "NFE at equal accuracy": lambda r: (
            number(r["nfe"]) if r["nfe"] else f"reached by {r['reached']} of {len(r['seeds'])}"
        ),
        "accuracy there, %": lambda r: plain(r["nfe_accuracy"], 100),
    }
    for name in rows[0]["reported"] if rows else ():
        columns[f"{name}: accuracy, % / NFE"] = lambda r, name=name: "{:.1f} / {:.1f}".format(
            100 * r["reported"][name][0], r["reported"][name][1]
        )
    return of_columns(columns, rows)


def mechanism_table(study: StudyConfig, rows: list[dict]) -> str:
    def of(key: str, scale: float = 100, form: str = ".1f") -> Callable[[dict], str]:
        return lambda r: plain(r["mechanism"][key], scale, form)

    columns = {
        "world": lambda r: r["world"],
        "arm": lambda r: study.label(r["arm"]),
        "one argmax in two states, %": of("invariance.agreement"),
        "KL between them, nats": of("invariance.kl", 1, ".3f"),
        "teacher's token in the light, %": of("invariance.light"),
        "in the heavy, %": of("invariance.heavy"),
        "states with the teacher's tokens, %": of("path.same_tokens"),
        "on the teacher's path, %": of("path.on_path"),
        "AUROC of the least confidence": of("auroc", 1, ".2f"),
    }
    return of_columns(columns, rows)


def tuning_table(rows: list[dict]) -> str:
    columns = {
        "trial": lambda r: r["cell"],
        "validation accuracy at the budget, %": lambda r: plain(r["accuracy"], 100),
        "NFE at equal accuracy": lambda r: plain(r["nfe"]),
        "chosen": lambda r: "yes" if r["chosen"] else "",
    }
    return of_columns(columns, rows)


def world_table(rows: list[dict]) -> str:
    columns = {
        "world": lambda r: r["world"],
        "bits of an answer": lambda r: plain(r["bits"]),
        "teacher, one token per step, test %": lambda r: plain(r["teacher"]),
        "EOS among the scored positions, %": lambda r: plain(r["end"]),
        "target, %": lambda r: plain(r["target"], 100),
        "budget, NFE": lambda r: plain(r["budget"]),
    }
    return of_columns(columns, rows)
