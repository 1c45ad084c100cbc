"""The report of notebook 07: figures and tables shown one by one, each saved, with a title and a caption."""

from collections.abc import Callable
from importlib.resources import files

import pandas as pd
import yaml
from IPython.display import Markdown, display
from matplotlib.figure import Figure

from dgs_utils import plots
from dgs_utils.figures import from_folders
from dgs_utils.figures.from_rows import compare_series, drawings, tables_of
from dgs_utils.plots.live import show
from dgs_utils.results import anova, claims, correctness, dd_ranking, reports
from dgs_utils.results.figure1_texts import figure1_texts
from dgs_utils.results.findings import find
from dgs_utils.results.gain_vs_shift import add_differences_to_dgs
from dgs_utils.results.result_tables import FILE_STEMS, markdown, write_table
from dgs_utils.results.rows import column_title, main_series, read_folders, read_results
from dgs_utils.results.summaries import ablated_columns
from dgs_utils.selection.targets import PREDEFINED, predefined_counts
from dgs_utils.store.atomic import atomic, write_csv
from dgs_utils.store.manifest import FINDINGS, parameter, read_manifest
from dgs_utils.store.paths import resolve_path
from dgs_utils.store.session import Run


class Report:
    """Figures and tables of a running stage 07, by the names of ``captions.yaml``; the inputs of ``run`` are 06 folders
    (or files of rows) and distilled sets.
    """

    def __init__(self, run: Run):
        self.run, self.folder, self.params = run, run.folder, run.params
        self.samples, folders = run.inputs.get("samples", []), run.inputs.get("evaluations")
        self.rows = read_folders(folders) if folders else read_results(list(map(resolve_path, run.params.results)))
        self.tables, self.main = tables_of(self.rows, run.params.margin), main_series(self.rows)
        self.summary = self.tables["summary"]
        self.words = yaml.safe_load(files("dgs_utils.figures").joinpath("captions.yaml").read_text(encoding="utf-8"))
        self.missing: dict[str, list[str]] = {}  # titles by reason
        self.content: dict[str, Callable[[], Figure | str | dict[str, str] | None]] = {
            **drawings(self.rows, run.params.margin, self.tables), **self._drawings_of_folders(),
            "figure4": lambda: plots.figure4({
                name: {ipc: predefined_counts(name, ipc) for ipc in (10, 20, 50)} for name in list(PREDEFINED)[:4]}),
            "findings": self._findings, "verdicts": self._verdicts, "tables": self._write_tables, "noise": self._noise,
            "robust_scores": lambda: _text(dd_ranking.robust_scores(self.rows), 3),
            "gains": self._gains, "claims": lambda: reports.write_claims(claims.claims_table(
                from_folders.claim_inputs(self.rows, self.samples)), "claims", self.folder)}
        write_csv(self.folder / "results.csv", self.rows.drop(columns=["folder", "series", "condition"]))
        write_csv(self.folder / "summary.csv", self.summary)
        if len(self.tables["rules"]):
            write_csv(self.folder / "rules.csv", self.tables["rules"])

    def show(self, *names: str) -> None:
        """Show figures and tables in the notebook, and save them; what the rows and sets do not give is noted."""
        for name in names:
            words = {key: text.format(main=self.main or "DGS", margin=self.params.margin)
                     for key, text in self.words[name].items()}
            content = self.content[name]()
            if not content:
                self.missing.setdefault(words["otherwise"], []).append(words["title"])
            elif isinstance(content, Figure):
                display(Markdown(f"### {words['title']}"))
                plots.save(content, self.folder, name)
                show(content)
                display(Markdown(words["caption"]))
            else:
                for title, text in ({words["title"]: content} if isinstance(content, str) else content).items():
                    display(Markdown(f"### {title}\n\n{text}" if title else text))

    def not_drawn(self) -> None:
        """Show what was not drawn, because rows or sets do not give it."""
        if self.missing:
            lines = [f"* {', '.join(names)}: {reason}." for reason, names in self.missing.items()]
            display(Markdown("\n".join(["### Not drawn, because", "", *lines])))

    def _drawings_of_folders(self) -> dict[str, Callable[[], Figure | None]]:
        """Return what draws the figures of distilled sets and of the stages behind them."""
        of, warn = next((folder for folder in self.samples
                         if read_manifest(folder)["identity"].get("method") == "dgs"), None), self.run.warn
        names, originals = self.params.figure_classes, self.params.show_originals

        def sets() -> Figure | None:
            images, heads = from_folders.sets_by_method(self.samples, self.rows, names, originals, warn)
            return plots.contact_sheet(images, heads=heads) if images else None

        def generators() -> Figure | None:
            shares = from_folders.generator_shares(self.samples, self.rows)
            return plots.table_heatmaps({"sets": shares}, "generator", "% of the images", 0.6) if len(shares) else None

        def scorer() -> Figure | None:
            errors = from_folders.scorer_errors(self.samples)
            return plots.confusion_matrix(errors[1], f"the scorer on the {errors[0]}") if errors else None

        return {"sets": sets, "generators": generators, "judge": scorer,
                "figure1": lambda: plots.figure1(figure1_texts(of, self.rows)) if of else None,
                "figure2": lambda: plots.figure2(from_folders.read_figure2_scores(of, names, warn),
                                                 parameter(of, "ipc"), share=self.params.share_y) if of else None,
                "figure3": lambda: plots.figure3(from_folders.figure3_images(of, names, originals, print)
                                                 ) if of else None}

    def _findings(self) -> dict[str, str]:
        headline, sentences = find(self.rows, self.tables["differences"], self.summary)
        text = "\n".join([f"## {self.params.title}: {headline}", "", *(f"* {sentence}" for sentence in sentences)])
        with atomic(self.folder / FINDINGS) as partial_file:
            partial_file.write_text(f"{text}\n", encoding="utf-8")
        return {"": text}

    def _verdicts(self) -> dict[str, str]:
        compared = self.tables["differences"]
        shown = {self.words["verdicts"]["title"]: reports.write_differences(compared, self.summary, self.folder)}
        if len(compared) and correctness.has_correctness(self.rows):
            on_images = compare_series(self.rows, margin=self.params.margin, images=True)
            write_csv(self.folder / "differences_with_test_images.csv", on_images)
            words = [f"{row.second} ({reports.verdict_words(row.verdict)})"
                     for row in on_images[on_images["verdict"] != compared["verdict"]].itertuples()]
            shown[""] = ("With the test images as a source of noise, too, as if others had been drawn, "
                         + (f"the verdict differs for {', '.join(words)}." if words else "all verdicts are the same."))
        return shown

    def _write_tables(self) -> dict[str, str]:
        """Write the tables that were asked for, and an ablation of whatever varies in difficulty-guided sampling."""
        shown, ablated = {}, ablated_columns(self.summary)
        for name in [*self.params.table_names, *ablated]:
            write_table(self.rows, name, self.folder)
            stem = FILE_STEMS.get(name, name)
            for file in sorted([*self.folder.glob(f"{stem}.md"), *self.folder.glob(f"{stem}-*.md")]):
                title = column_title(file.stem)
                shown[f"Ablation: {title.lower()}" if name in ablated else title] = file.read_text(encoding="utf-8")
        return shown

    def _noise(self) -> str:
        sources = anova.anova_table(self.rows)
        if len(sources):
            write_csv(self.folder / "noise.csv", sources)
        return _text(sources, 2)

    def _gains(self) -> str:
        gains = self.tables["pool_gains"]
        if gains.empty:
            return ""
        write_csv(self.folder / "gains_of_pools.csv", gains)
        return reports.write_gains(add_differences_to_dgs(gains), "gains", self.folder)


def _text(frame: pd.DataFrame, digits: int) -> str:
    """Return a frame as Markdown, without columns that are the same in all lines; "" for an empty one."""
    varying = [name for name in frame if frame[name].nunique() > 1 or name in ("series", "lrs", "ars")]
    return markdown(frame[varying].round(digits).set_index(varying[0])) if len(frame) else ""
