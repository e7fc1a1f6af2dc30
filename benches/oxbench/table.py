"""One table of all rows: each machine's time as a ratio to the host's, and to each other's."""

import math

SIDES = ("native", "tcg", "oxbox")


def geomean(values):
    values = [value for value in values if value]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def two(value):
    return f"{value:.2f}" if value else ""


def time_of(ns):
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns and ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.3g} ns" if ns else ""


def checked(name, sides):
    """The times of a row, by side, and which sides failed: no result, or another one than the first's.

    What the host does not do at all, a kernel's boot for one, is no failure of it."""
    times, failed, reference = {}, [], None
    for side in SIDES:
        if side not in sides or (side == "native" and name not in sides[side]):
            continue
        ns, checksum = sides[side].get(name, (None, None))
        reference = reference or checksum
        if ns is None or checksum != reference:
            failed.append(side)
        else:
            times[side] = ns
    return times, failed


def quotients(times):
    def over(a, b):
        return times[a] / times[b] if a in times and b in times and times[b] else None
    return over("tcg", "native"), over("oxbox", "native"), over("tcg", "oxbox")


def group(title, names, sides):
    """Prints a group of rows with its means and worst rows; returns it as data."""
    rows, found = [], []
    print(f"| **{title}** | | | | |")
    for name in names:
        times, failed = checked(name, sides)
        ratios = quotients(times)
        cells = [two(ratio) for ratio in ratios]
        if "tcg" in failed:
            cells[0] = "failed"
        if "oxbox" in failed:
            cells[1] = "failed"
            cells[2] = cells[2] or "failed"
        shown = next((times[side] for side in SIDES if side in times), None)
        print(f"| {name} | {time_of(shown)} | {' | '.join(cells)} |")
        found.append((name, ratios))
        rows.append({"row": name, "ns": times, "failed": failed, "tcg_native": ratios[0],
                     "oxbox_native": ratios[1], "tcg_oxbox": ratios[2]})
    means = [geomean(ratios[i] for _, ratios in found) for i in range(3)]
    worst = [pick((ratios[i], name) for name, ratios in found if ratios[i]) for i, pick in ((0, most), (1, most), (2, least))]
    wrong = sum(bool(row["failed"]) for row in rows)
    print(f"| *geometric mean*{f', {wrong} failed rows apart' if wrong else ''} | | {' | '.join(two(mean) for mean in means)} |")
    print(f"| *worst* | | {' | '.join(worst)} |")
    return {"group": title, "rows": rows, "geomean": dict(zip(("tcg_native", "oxbox_native", "tcg_oxbox"), means))}


def most(values):
    ratio, name = max(values, default=(None, ""))
    return f"{name} {two(ratio)}"


def least(values):
    ratio, name = min(values, default=(None, ""))
    return f"{name} {two(ratio)}"


def head():
    print("| row | time (native; else TCG, Oxbox) | TCG / native | Oxbox / native | TCG / Oxbox |")
    print("| --- | ---: | ---: | ---: | ---: |")
