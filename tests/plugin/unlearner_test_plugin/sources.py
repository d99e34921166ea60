"""A source of records: `capitals:COUNT`, questions about capitals that exist nowhere else."""

from collections.abc import Iterator

PLACES = {"Ardun": "Velmora", "Brisk": "Tolen", "Caspen": "Orrin", "Delmar": "Wynfield", "Estra": "Quillon"}


def capitals(spec: str) -> Iterator[dict[str, str]]:
    """The first `spec` countries with their capitals; all where `spec` is empty."""
    for country, capital in list(PLACES.items())[: int(spec) if spec else None]:
        yield {"question": f"What is the capital of {country}?", "answer": f"It is {capital}.", "subject": country}
