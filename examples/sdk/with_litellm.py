"""Meter LiteLLM's SDK, which makes clients in many places: `instrument_all`, before its first call.

python examples/sdk/with_litellm.py      (reads OPENAI_API_KEY and ANTHROPIC_API_KEY)
"""

import litellm

from meterd_middleware import Meter, instrument_all, tagged


def main() -> None:
    """Make one call through each of two providers."""
    with Meter(service="with-litellm") as meter:
        instrument_all(meter)

        with tagged(client="acme-corp", project="content-generator"):
            for model in ("openai/gpt-5.4-mini", "anthropic/claude-haiku-4-5"):
                answer = litellm.completion(
                    model=model, messages=[{"role": "user", "content": "Draft a headline."}]
                )
                print(answer.choices[0].message.content)


if __name__ == "__main__":
    main()
