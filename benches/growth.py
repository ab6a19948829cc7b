"""Table and picture of `engine growth`.

    growth.py RESULTS PLOT      reads lines of JSON from standard input as they come, and prints the table
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
# The same picture from the same figures, byte by byte.
matplotlib.rcParams.update({"svg.hashsalt": "tertulia", "svg.fonttype": "none"})
import matplotlib.pyplot as plt

MODES = ("semantic", "keyword", "hybrid")


def main() -> None:
    results, picture = Path(sys.argv[1]), Path(sys.argv[2])
    print("| chunks | semantic p50 / p99 µs | recall@10 | keyword p50 / p99 µs | hybrid p50 / p99 µs | bytes/chunk (text of them) | build s | restore ms |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    for line in sys.stdin:
        row = json.loads(line)
        rows.append(row)
        times = {mode: f"{row[f'{mode}_p50_us']:,.0f} / {row[f'{mode}_p99_us']:,.0f}" for mode in MODES}
        made = "" if row["real"] == row["chunks"] else " *"
        print(
            f"| {row['chunks']:,}{made} | {times['semantic']} | {row['semantic_recall_at_10']:.4f} | {times['keyword']} "
            f"| {times['hybrid']} | {row['bytes_per_chunk']:,.0f} ({row['content_bytes_per_chunk']:,.0f}) | {row['build_s']:,.1f} "
            f"| {row['restore_ms']:,.0f} |",
            flush=True,
        )
    if not rows:
        sys.exit("there are no figures")
    print(f"\n\\* past {max(row['real'] for row in rows):,} chunks the others are made of the real ones")
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))

    figure, (times, memory) = plt.subplots(1, 2, figsize=(11, 4.4))
    sizes = [row["chunks"] for row in rows]
    for mode in MODES:
        (line,) = times.plot(sizes, [row[f"{mode}_p50_us"] for row in rows], marker=".", label=f"{mode}, median")
        p99 = [row[f"{mode}_p99_us"] for row in rows]
        times.plot(sizes, p99, marker=".", linestyle="--", linewidth=1, color=line.get_color(), label=f"{mode}, p99")
    times.set_xscale("log")
    times.set_yscale("log")
    times.set_xlabel("chunks")
    times.set_ylabel("µs")
    times.set_title("time of a search, one thread", fontsize=10)
    times.legend(fontsize=8)
    memory.plot(sizes, [row["bytes_per_chunk"] * row["chunks"] / 2**20 for row in rows], marker=".", color="black")
    memory.set_xscale("log")
    memory.set_yscale("log")
    memory.set_xlabel("chunks")
    memory.set_ylabel("MiB")
    memory.set_title("memory, text included", fontsize=10)
    for axis in (times, memory):
        axis.grid(True, alpha=0.3)
    figure.tight_layout()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
