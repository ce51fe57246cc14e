"""What a run has so far: answers by document, their verdicts, and the progress bar."""

from concurrent.futures import Future
from dataclasses import dataclass, field

from tqdm import tqdm

from evaluation.dllm_eval.answers import Answer, Key
from evaluation.dllm_eval.scoring import Scorer, is_ours


@dataclass
class Document:
    """One row of a task: answers by repeat, and their verdicts once all are there."""

    doc: dict
    prompt: str
    repeats: int
    answers: dict[int, Answer] = field(default_factory=dict)
    verdicts: list[Future] = field(default_factory=list)

    @property
    def responses(self) -> list[str]:
        return [self.answers[i].text for i in range(self.repeats)]


class Recorder:
    """Collects the answers of our tasks, has them scored, and shows accuracy and NFE so far."""

    def __init__(self, scorer: Scorer | None = None, show: bool = False):
        self.scorer, self.show = scorer, show
        self.documents: dict[tuple[str, int], Document] = {}
        self.bar = tqdm(disable=True)
        self.waiting: list[Document] = []  # documents whose programs are still running
        self.nfe = self.answered = self.right = self.scored = 0

    def start(self, total: int) -> None:
        self.bar = tqdm(total=total, unit="answer", disable=not self.show, dynamic_ncols=True)

    def stop(self) -> None:
        self.show_progress()
        self.bar.refresh()
        self.bar.close()

    def add(self, key: Key, instance, answer: Answer) -> None:
        """Count an answer; the last of a document's repeats sends them all to be scored."""
        task, doc_id, _, repeat = key
        if answer.text is not None:
            self.nfe += answer.nfe
            self.answered += 1
        if self.scorer is not None and is_ours(task):
            new = Document(instance.doc, instance.args[0], instance.repeats)
            document = self.documents.setdefault((task, doc_id), new)
            document.answers[repeat] = answer
            if len(document.answers) == document.repeats:
                document.verdicts = self.scorer.submit(task, document.doc, document.responses)
                self.waiting.append(document)
        self.show_progress()
        self.bar.update()

    def count_scored(self) -> None:
        """Take the documents whose verdicts have come since into the running accuracy."""
        still_waiting = []
        for document in self.waiting:
            if all(verdict.done() for verdict in document.verdicts):
                self.scored += 1
                self.right += any(verdict.result().right for verdict in document.verdicts)
            else:
                still_waiting.append(document)
        self.waiting = still_waiting

    def show_progress(self) -> None:
        """Accuracy over the documents scored so far (programs lag behind), and mean forward passes per answer."""
        self.count_scored()
        parts = {"NFE": f"{self.nfe / self.answered:.1f}"} if self.answered else {}
        if self.scored:
            parts = {"accuracy": f"{self.right / self.scored:.1%} of {self.scored}"} | parts
        self.bar.set_postfix(parts, refresh=False)
