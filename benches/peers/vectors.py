"""Nearest vectors: tertulia's index beside four well-known libraries, on one axis of recall and one of time.

    vectors.py FOLDER ENGINE RESULTS PLOT [--rounds N]

FOLDER holds what `engine export` wrote, ENGINE is that program, RESULTS the JSON file to write, PLOT the picture. All of
them get the same vectors of unit length and the same questions, one at a time, on one thread, each in a process of its
own, in turns: a round asks every question once of everyone. Of a question's times the best counts, since what else the
machine does is nobody's merit; percentiles are over the questions. What is right is decided here by an exact scan; of vectors that are as near as the tenth, any will do.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Before numpy and faiss read them.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np

TOP_K = 10
# A score that is less than this below the tenth best is as good: everyone adds up in an order of their own.
TIE = 1e-5
# The same graph for everyone who builds one: M 16 (32 links on the lowest level) and efConstruction 128.
M = 16
EF_CONSTRUCTION = 128
EFS = (10, 20, 40, 64, 100, 200, 400, 800)
# As benches/engine/vectors.rs has them.
SPREAD, PLACES, KEPT = 7919, 1000, (500, 100, 10, 1)


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows and questions, `[n, dimensions]` f32 each."""
    dimensions = json.loads((folder / "about.json").read_text())["dimensions"]
    rows, questions = (
        np.fromfile(folder / name, dtype="<f4").reshape(-1, dimensions) for name in ("rows.f32", "questions.f32")
    )
    return rows, questions


# ---- peers: each takes the rows, and gives its own account of its bytes (or None) and its searches, by name ----


def usearch_peer(rows, dtype):
    from usearch.index import Index

    index = Index(
        ndim=rows.shape[1], metric="ip", dtype=dtype, connectivity=M, expansion_add=EF_CONSTRUCTION
    )
    index.add(np.arange(len(rows)), rows, threads=1)

    def searcher(ef):
        def prepare():
            index.expansion_search = ef

        return prepare, lambda question: index.search(question, TOP_K, threads=1), lambda found: found.keys

    return index.memory_usage, {f"ef {ef}": searcher(ef) for ef in EFS}


def hnswlib_peer(rows):
    import hnswlib

    index = hnswlib.Index(space="ip", dim=rows.shape[1])
    index.init_index(max_elements=len(rows), M=M, ef_construction=EF_CONSTRUCTION)
    index.set_num_threads(1)
    index.add_items(rows, np.arange(len(rows)), num_threads=1)

    def searcher(ef):
        return (
            lambda: index.set_ef(ef),
            lambda question: index.knn_query(question, k=TOP_K, num_threads=1),
            lambda found: found[0][0],
        )

    return index.index_file_size(), {f"ef {ef}": searcher(ef) for ef in EFS}


def faiss_peer(rows, kind):
    import faiss

    faiss.omp_set_num_threads(1)
    dimensions = rows.shape[1]
    if kind == "HNSW":
        index = faiss.IndexHNSWFlat(dimensions, M, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        settings = [(f"ef {ef}", lambda ef=ef: setattr(index.hnsw, "efSearch", ef)) for ef in EFS]
    elif kind == "IVF-PQ":
        # Its quickest on a processor: 4-bit product quantisation in registers, then the true distances of the best.
        index = faiss.index_factory(dimensions, "IVF256,PQ128x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
        index.k_factor = 20
        inner = faiss.downcast_index(index.base_index)
        settings = [(f"nprobe {n}", lambda n=n: setattr(inner, "nprobe", n)) for n in (4, 8, 16, 32, 64, 128, 256)]
        index.train(rows)
    else:
        index = faiss.IndexFlatIP(dimensions)
        settings = [("exact", lambda: None)]
    index.add(rows)
    found = lambda answer: answer[1][0]
    searchers = {
        name: (prepare, lambda question: index.search(question.reshape(1, -1), TOP_K), found)
        for name, prepare in settings
    }
    return len(faiss.serialize_index(index)), searchers


def qdrant_peer(rows, folder):
    import qdrant_edge as edge

    hnsw = edge.HnswIndexConfig(m=M, ef_construct=EF_CONSTRUCTION, full_scan_threshold=10, max_indexing_threads=1)
    shard = edge.EdgeShard.create(
        folder,
        edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(size=rows.shape[1], distance=edge.Distance.Dot),
            hnsw_config=hnsw,
            optimizers=edge.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=100),
            max_search_threads=1,
        ),
    )
    for start in range(0, len(rows), 1000):
        points = [edge.Point(start + i, row.tolist()) for i, row in enumerate(rows[start : start + 1000])]
        shard.update(edge.UpdateOperation.upsert_points(points))
    while shard.optimize():
        pass

    def searcher(ef):
        params = edge.SearchParams(hnsw_ef=ef)

        def ask(question):
            # The list is made outside of the measured time: see `once`.
            return shard.search(edge.SearchRequest(edge.Query.Nearest(question), TOP_K, params=params))

        return lambda: None, ask, lambda found: [point.id for point in found]

    return None, {f"ef {ef}": searcher(ef) for ef in EFS}


PEERS = {
    "usearch f32": lambda rows, folder: usearch_peer(rows, "f32"),
    "usearch f16": lambda rows, folder: usearch_peer(rows, "f16"),
    "usearch i8": lambda rows, folder: usearch_peer(rows, "i8"),
    "hnswlib f32": lambda rows, folder: hnswlib_peer(rows),
    "faiss HNSW f32": lambda rows, folder: faiss_peer(rows, "HNSW"),
    "faiss IVF-PQ, refined": lambda rows, folder: faiss_peer(rows, "IVF-PQ"),
    "faiss exact scan": lambda rows, folder: faiss_peer(rows, "Flat"),
    "qdrant-edge f32": qdrant_peer,
}
PACKAGES = ("usearch", "hnswlib", "faiss-cpu", "qdrant-edge-py", "numpy")


def resident_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def serve_peer(name: str, folder: Path) -> None:
    """The process of a peer: builds, says so, and then asks all questions whenever a line comes in."""
    # The protocol has standard output for itself, whatever a library prints.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    rows, questions = read(folder)
    rows = np.ascontiguousarray(rows)
    before = resident_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        begun = time.perf_counter()
        own, searchers = PEERS[name](rows, scratch)
        build = time.perf_counter() - begun
        resident = resident_bytes() - before
        print(
            json.dumps(
                {
                    "build_s": build,
                    "bytes_per_vector": own and own / len(rows),
                    "resident_bytes_per_vector": resident / len(rows),
                }
            ),
            file=out,
            flush=True,
        )
        for _ in sys.stdin:
            cases = {}
            for case, (prepare, ask, ids) in searchers.items():
                prepare()
                asked = [question.tolist() for question in questions] if name.startswith("qdrant") else questions
                for question in asked[:50]:
                    ask(question)
                times, found = [], []
                for question in asked:
                    begun = time.perf_counter_ns()
                    answer = ask(question)
                    times.append(time.perf_counter_ns() - begun)
                    found.append([int(key) for key in ids(answer)])
                cases[case] = {"times_us": [nanoseconds / 1e3 for nanoseconds in times], "found": found}
            print(json.dumps(cases), file=out, flush=True)


# ---- the run ----


class Truth:
    """Scores of every row for every question, by an exact scan."""

    def __init__(self, rows, questions):
        self.scores = questions @ rows.T

    def recall(self, found, kept=None) -> float:
        """Share of the true ten among `found`, `[questions][ten]`; of those that there are, if fewer are `kept`."""
        right = wanted = 0
        for scores, numbers in zip(self.scores, found):
            scores = scores if kept is None else np.where(kept, scores, -np.inf)
            count = min(TOP_K, int(np.isfinite(scores).sum()))
            last = np.partition(scores, -count)[-count]
            numbers = {number for number in numbers if number < len(scores)}
            right += sum(scores[number] >= last - TIE for number in numbers)
            wanted += count
        return right / wanted


def merged(rounds: list[dict]) -> dict:
    """Percentiles over the questions of each one's best time."""
    best = np.min([case["times_us"] for case in rounds], axis=0)
    return {f"p{share}_us": float(np.percentile(best, share, method="higher")) for share in (50, 99)}


def run(folder: Path, engine: str, rounds: int) -> dict:
    rows, questions = read(folder)
    truth = Truth(rows, questions)
    peers = {}
    for name in PEERS:
        print(f"building {name} …", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--peer", name, str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = process.stdout.readline()
        if not line:
            sys.exit(f"{name} has failed")
        peers[name] = (process, json.loads(line), [])
    turns = []
    for turn in range(rounds):
        print(f"round {turn + 1} of {rounds} …", file=sys.stderr, flush=True)
        command = [engine, "vectors", str(folder), "--rounds", "1"]
        turns.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        for process, _, cases in peers.values():
            process.stdin.write("\n")
            process.stdin.flush()
            cases.append(json.loads(process.stdout.readline()))
    for process, _, _ in peers.values():
        process.stdin.close()
        process.wait()

    def engine_case(case, kept=None):
        found = np.fromfile(folder / f"found-{case}.u32", dtype="<u4").reshape(-1, TOP_K)
        of_turns = [next(c for c in turn["cases"] if c["case"] == case) for turn in turns]
        return {"case": case, "recall_at_10": truth.recall(found.tolist(), kept), **merged(of_turns)}

    built = {key: statistics.median(turn[key] for turn in turns) for key in turns[0] if key != "cases"}
    places = np.arange(len(rows)) * SPREAD % PLACES
    results = [{"engine": "tertulia", "parameters": "none to set", **built, **engine_case("all")}]
    for name, (_, built, cases) in peers.items():
        for case in cases[0]:
            recall = truth.recall(cases[0][case]["found"])
            figures = merged([turn[case] for turn in cases])
            results.append({"engine": name, "parameters": case, **built, "recall_at_10": recall, **figures})
    return {
        "rows": len(rows),
        "questions": len(questions),
        "dimensions": rows.shape[1],
        "rounds": rounds,
        "threads": 1,
        "machine": machine(),
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "results": results,
        "filtered": [{"kept": kept / PLACES, **engine_case(f"kept-{kept}", places < kept)} for kept in KEPT],
        "changed": [engine_case(case) for case in ("all", "replaced", "replaced-maintained")],
    }


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores"


def table(report: dict) -> str:
    def byte(value):
        return f"{value:,.0f}" if value else "–"

    lines = [
        f"{report['rows']:,} vectors of {report['dimensions']} dimensions, {report['questions']} questions, one thread, "
        f"the best of {report['rounds']} times of each question; {report['machine']}",
        "",
        "| index | parameters | recall@10 | p50 µs | p99 µs | build s | bytes/vector | resident |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["results"]:
        lines.append(
            f"| {row['engine']} | {row['parameters']} | {row['recall_at_10']:.4f} | {row['p50_us']:.0f} "
            f"| {row['p99_us']:.0f} | {row['build_s']:.1f} | {byte(row['bytes_per_vector'])} "
            f"| {byte(row['resident_bytes_per_vector'])} |"
        )
    lines += ["", "| tertulia, filter keeps | recall@10 | p50 µs | p99 µs |", "|---|---|---|---|"]
    for row in report["filtered"]:
        lines.append(f"| {row['kept']:.1%} | {row['recall_at_10']:.4f} | {row['p50_us']:.0f} | {row['p99_us']:.0f} |")
    names = {
        "all": "as built",
        "replaced": "30 % deleted and written anew, a hundred at a time",
        "replaced-maintained": "the same, after its upkeep",
    }
    lines += ["", "| tertulia, state | recall@10 | p50 µs | p99 µs |", "|---|---|---|---|"]
    for row in report["changed"]:
        lines.append(
            f"| {names[row['case']]} | {row['recall_at_10']:.4f} | {row['p50_us']:.0f} | {row['p99_us']:.0f} |"
        )
    return "\n".join(lines)


def plot(report: dict, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    # The same picture from the same figures, byte by byte.
    matplotlib.rcParams.update({"svg.hashsalt": "tertulia", "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12.5, 4.8), sharey=True)
    engines = list(dict.fromkeys(row["engine"] for row in report["results"]))
    for axis, key, title in zip(axes, ("p50_us", "p99_us"), ("median", "99th percentile")):
        for number, engine in enumerate(engines):
            rows = sorted((row for row in report["results"] if row["engine"] == engine), key=lambda row: row[key])
            style = {"color": "black", "marker": "*", "markersize": 14, "zorder": 9} if number == 0 else {"marker": "."}
            # On a scale of what is missed; nothing is further right than one in ten thousand.
            missed = [max(1 - row["recall_at_10"], 1e-4) for row in rows]
            axis.plot(missed, [row[key] for row in rows], label=engine, linewidth=1, **style)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlim(0.3, 8e-5)
        ticks = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0001)
        axis.set_xticks(ticks, [f"{1 - tick:g}" for tick in ticks[:-1]] + ["≥0.9999"], rotation=45, fontsize=8)
        axis.minorticks_off()
        axis.set_xlabel("recall@10")
        axis.set_title(f"{title} of the questions, one thread", fontsize=10)
        axis.grid(True, alpha=0.3)
    times = [time for time in (20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)]
    axes[0].set_yticks(times, [f"{time:,}" for time in times])
    axes[0].set_ylabel("µs, less is better")
    axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.suptitle(f"{report['rows']:,} real chunks, {report['dimensions']} dimensions", fontsize=11)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    if sys.argv[1:2] == ["--peer"]:
        serve_peer(sys.argv[2], Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("engine")
    parser.add_argument("results", type=Path)
    parser.add_argument("plot", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    report = run(args.folder, args.engine, args.rounds)
    print(table(report))
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(json.dumps(report, indent=1) + "\n")
    plot(report, args.plot)


if __name__ == "__main__":
    main()
