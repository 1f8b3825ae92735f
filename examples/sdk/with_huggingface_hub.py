"""Meter huggingface_hub's InferenceClient, which makes its httpx2 client anew: `instrument_all`.

python examples/sdk/with_huggingface_hub.py      (reads HF_TOKEN)
"""

import os

from huggingface_hub import ChatCompletionInputStreamOptions, InferenceClient

from meterd_middleware import Meter, instrument_all, tagged

MODEL = "meta-llama/Llama-3.3-70B-Instruct"


def main() -> None:
    """Make one call of each kind."""
    with Meter(service="with-huggingface-hub") as meter:
        instrument_all(meter)
        client = InferenceClient(base_url=os.environ.get("HF_BASE_URL"))

        with tagged(client="acme-corp", project="support-chatbot"):
            answer = client.chat_completion(
                model=MODEL, messages=[{"role": "user", "content": "Where is my parcel?"}]
            )
            print(answer.choices[0].message.content)

            for chunk in client.chat_completion(
                model=MODEL,
                messages=[{"role": "user", "content": "And when will it arrive?"}],
                stream=True,
                stream_options=ChatCompletionInputStreamOptions(include_usage=True),
            ):
                print(chunk.choices[0].delta.content or "" if chunk.choices else "", end="")
            print()


if __name__ == "__main__":
    main()
