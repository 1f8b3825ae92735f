"""Meter the cohere SDK: chat, a stream, embeddings.

python examples/sdk/with_cohere.py      (reads CO_API_KEY and, if set, CO_API_URL)
"""

import cohere
from cohere.core.request_options import RequestOptions

from meterd_middleware import Meter, instrument

TAGS = RequestOptions(
    additional_headers={"X-Client-ID": "acme-corp", "X-Project-ID": "lead-qualification"}
)


def main() -> None:
    """Make one call of each kind."""
    with Meter(service="with-cohere") as meter:
        client = instrument(cohere.ClientV2(), meter=meter)

        answer = client.chat(
            model="command-a",
            messages=[cohere.UserChatMessageV2(content="Who is worth a call?")],
            request_options=TAGS,
        )
        for item in answer.message.content or []:
            print(item.text if item.type == "text" else "")

        for event in client.chat_stream(
            model="command-a",
            messages=[cohere.UserChatMessageV2(content="Why?")],
            request_options=TAGS,
        ):
            if event.type == "content-delta" and event.delta and event.delta.message:
                content = event.delta.message.content
                print(content.text if content else "", end="")
        print()

        client.embed(
            model="embed-v4.0",
            input_type="search_document",
            texts=["lead", "customer"],
            embedding_types=["float"],
            request_options=TAGS,
        )


if __name__ == "__main__":
    main()
