"""Find what is nearest to a query by a function of the caller or by embeddings: ``dspy.Retrieve`` and ``dspy.KNN``.

The nearest vector has the largest dot product, as in DSPy, which needs NumPy for it. Vectors of the searched texts come
with the call, or the embedder is called for them once per call. The vector of the query comes as the input ``vector``,
or from the embedder too.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Final

import dspy

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import PASSAGES_BYTES, size_of
from erlport_bridge.programs.callbacks import ElixirFunction
from erlport_bridge.programs.text import arguments, neutral
from erlport_bridge.programs.values import plain
from erlport_bridge.term import shown

Vector = Sequence[float]

#: The maximum number of passages or examples that are returned.
MAX_COUNT: Final = 1_000

# So many products take about 10 ms; a larger search runs in a thread, so as not to block the event loop.
_MAX_PRODUCTS_ON_LOOP: Final = 200_000


def read_vectors(value: object, path: str) -> list[list[float]]:
    """Read a list of vectors, all of one length.

    Raises:
        OperationError: Of kind ``input``, with the path of the invalid element.
    """
    if not isinstance(value, list) or not value:
        raise _wrong("a list of vectors", value, path)
    return [_vector(item, f"{path}[{index}]", len(value[0]) if index else None) for index, item in enumerate(value)]


def read_vector(value: object, path: str) -> list[float]:
    """Read one vector; raise errors as :func:`read_vectors`."""
    return _vector(value, path, None)


def _vector(value: object, path: str, length: int | None) -> list[float]:
    if not isinstance(value, list) or not value or not all(arguments.is_number(number) for number in value):
        raise _wrong("a list of numbers", value, path)
    if length is not None and len(value) != length:
        raise OperationError("input", f"expected {length} numbers at {path}, got {len(value)}", path=path)
    return [float(number) for number in value]


class Vectors:
    """Texts that can be searched by their embeddings.

    Args:
        texts: The searched texts, in the form that the embedder gets.
        vectors: One embedding per text; ``None``: the embedder is called for them.
        embedder: Returns vectors of texts; ``None``: each call gives the vector of its query.
        query_path: Where the vector of the query stands, for errors.
    """

    def __init__(
        self,
        texts: Sequence[str],
        vectors: Sequence[Vector] | None,
        embedder: ElixirFunction | None,
        query_path: str = "inputs.vector",
    ) -> None:
        if vectors is None and embedder is None:
            form = "an embedder, a function from a list of texts to a list of vectors"
            message = f"expected vectors of what is searched, or {form}, among the options"
            raise OperationError("input", message, path="vectors")
        if vectors is not None and len(vectors) != len(texts):
            message = f"expected {len(texts)} vectors, one for each that is searched, got {len(vectors)}"
            raise OperationError("input", message, path="vectors")
        self._texts = list(texts)
        self._vectors = vectors
        self._embedder = embedder
        self._query_path = query_path
        self._embedding: asyncio.Task[list[list[float]]] | None = None

    async def nearest(self, query: str, vector: Vector | None, count: int) -> list[int]:
        """Return the indexes of the ``count`` nearest texts, the nearest first."""
        vectors = await self.all()
        if vector is None and self._embedder is None:
            message = f"expected the query's vector at {self._query_path}, as there is no embedder"
            raise OperationError("input", message, path=self._query_path)
        vector = (await self._embed([query]))[0] if vector is None else vector
        if len(vector) != len(vectors[0]):
            message = f"expected {len(vectors[0])} numbers in the query's vector, got {len(vector)}"
            raise OperationError("input", message, path=self._query_path)
        if len(vectors) * len(vector) > _MAX_PRODUCTS_ON_LOOP:
            return await asyncio.to_thread(_nearest, vectors, vector, count)
        return _nearest(vectors, vector, count)

    async def all(self) -> Sequence[Vector]:
        """Return the vectors of all searched texts."""
        if self._vectors is not None:
            return self._vectors
        if (
            self._embedding is None
            or self._embedding.cancelled()
            or (self._embedding.done() and self._embedding.exception())
        ):
            # One request serves all items of a batch, so cancelling one item must not cancel it for the others.
            self._embedding = asyncio.ensure_future(self._embed(self._texts))
        return await asyncio.shield(self._embedding)

    async def _embed(self, texts: list[str]) -> list[list[float]]:
        if self._embedder is None:
            raise OperationError("input", "expected vectors or an embedder", path="embedder")
        gave, place = await self._embedder.call({"texts": texts}), self._embedder.place
        try:
            vectors = read_vectors(gave, "the result")
        except OperationError as error:
            message = f"the embedder at {place} gave no vectors: {error.message}"
            raise OperationError("tool", message, path=place) from None
        if len(vectors) != len(texts):
            message = f"expected {len(texts)} vectors from the embedder at {place}, got {len(vectors)}"
            raise OperationError("tool", message, path=place)
        return vectors


def _nearest(vectors: Sequence[Vector], query: Vector, count: int) -> list[int]:
    products = [sum(map(operator.mul, vector, query)) for vector in vectors]
    return sorted(range(len(products)), key=products.__getitem__)[-count:][::-1]


class Retrieve(dspy.Module):  # type: ignore[misc]
    """The port's ``dspy.Retrieve``, by a function of Elixir or by embeddings.

    Args:
        retriever: A function of Elixir, called with ``query`` and ``k``; returns texts.
        vectors: The embeddings that are searched, if there is no retriever.
        passages: The texts of ``vectors``.
        count: How many passages are returned, unless the call gives ``k``.
    """

    stands_for = dspy.Retrieve

    def __init__(
        self, retriever: ElixirFunction | None, vectors: Vectors | None, passages: Sequence[str], count: int
    ) -> None:
        super().__init__()
        self._retriever = retriever
        self._vectors = vectors
        self._passages = passages
        self._count = count

    async def aforward(self, query: str, k: int | None = None, vector: Vector | None = None) -> dspy.Prediction:
        """Return the passages nearest to the query."""
        count = self._count if k is None else k
        if not 1 <= count <= MAX_COUNT:
            raise _wrong(f"an integer from 1 to {MAX_COUNT}", k, "inputs.k")
        if self._vectors is not None:
            found = await self._vectors.nearest(query, vector, count)
            return dspy.Prediction(passages=[neutral(self._passages[index]) for index in found])
        return dspy.Prediction(passages=await self._retrieved(query, count))

    async def _retrieved(self, query: str, count: int) -> list[str]:
        if self._retriever is None:
            raise OperationError("input", "expected a retriever, or passages", path="retriever")
        gave, place = await self._retriever.call({"query": query, "k": count}), self._retriever.place
        if not isinstance(gave, list) or not all(isinstance(passage, str) for passage in gave):
            message = f"expected a list of texts from the retriever at {place}, got {shown(gave)}"
            raise OperationError("tool", message, path=place)
        PASSAGES_BYTES.check(size_of(gave, PASSAGES_BYTES.most), place)
        return [neutral(passage) for passage in gave]


class NearestExamples(dspy.Module):  # type: ignore[misc]
    """The port's ``dspy.KNN``.

    Args:
        names: The fields by which examples are compared.
        examples: The examples: maps of fields.
        vectors: One embedding per example; ``None``: the embedder is called for them.
        embedder: Returns the embeddings of the examples, if ``vectors`` is ``None``, and of the query.
        count: How many examples are returned.
    """

    stands_for = dspy.KNN

    def __init__(
        self,
        names: Sequence[str],
        examples: Sequence[Mapping[str, Any]],
        vectors: Sequence[Vector] | None,
        embedder: ElixirFunction | None,
        count: int,
    ) -> None:
        super().__init__()
        for index, example in enumerate(examples):
            for name in names:
                if name not in example:
                    where = f"trainset[{index}].{name}"
                    raise OperationError("input", f"expected {name} in the example at {where}", path=where)
        self._examples = list(examples)
        texts = [embedded_text({name: example[name] for name in example if name in names}) for example in examples]
        self._vectors = Vectors(texts, vectors, embedder)
        self._count = count

    async def aforward(self, vector: Vector | None = None, **inputs: Any) -> dspy.Prediction:
        """Return the examples nearest to the inputs."""
        found = await self._vectors.nearest(embedded_text(inputs), vector, self._count)
        return dspy.Prediction(examples=[self._examples[index] for index in found])


def embedded_text(fields: Mapping[str, Any]) -> str:
    """Return fields as the text that DSPy would embed."""
    return " | ".join(f"{name}: {plain(value)}" for name, value in fields.items())


def _wrong(expected: str, value: object, path: str) -> OperationError:
    return OperationError("input", f"expected {expected} at {path}, got {shown(value)}", path=path)
