"""Meter the google-genai SDK: content, a stream, and the async client.

python examples/sdk/with_google_genai.py      (reads GEMINI_API_KEY)
"""

import asyncio

from google import genai
from google.genai import types

from meterd_middleware import Meter, instrument, tagged

MODEL = "gemini-3.8-flash"
TAGS = {"X-Client-ID": "acme-corp", "X-Project-ID": "lead-qualification"}


async def score(client: genai.Client) -> None:
    """The async client is the same object's `aio`."""
    answer = await client.aio.models.generate_content(model=MODEL, contents="Score lead three.")
    print(answer.text)


def main() -> None:
    """Make one call of each kind."""
    with Meter(service="with-google-genai") as meter:
        client = instrument(genai.Client(), meter=meter)

        answer = client.models.generate_content(
            model=MODEL,
            contents="Score lead one.",
            config=types.GenerateContentConfig(http_options=types.HttpOptions(headers=TAGS)),
        )
        print(answer.text)

        # `tagged` does the same for whatever is called inside the block.
        with tagged(client="acme-corp", project="lead-qualification"):
            for chunk in client.models.generate_content_stream(
                model=MODEL, contents="Score lead two."
            ):
                print(chunk.text or "", end="")
            print()
            asyncio.run(score(client))


if __name__ == "__main__":
    main()
