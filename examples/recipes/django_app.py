"""Django: a middleware of one function bills a request to whom it is for.

`gunicorn examples.recipes.django_app:application`. In a project of your own the function
stands in a module and its path in `MIDDLEWARE`, behind `AuthenticationMiddleware`; an async
project under ASGI wraps its application in `MeterMiddleware` instead.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import django
import openai
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from meterd_middleware import Meter, instrument, refusal_of, tagged

if TYPE_CHECKING:
    from collections.abc import Callable

ACCOUNTS = {"acme": "acme-corp", "tech": "techstartup", "bigco": "bigco-inc"}

meter = Meter(service="django-app")
client = instrument(openai.OpenAI(), meter=meter)


def billing(get_response: Callable[[HttpRequest], HttpResponse]) -> object:
    """The middleware: enters the tags around view and response."""

    def middleware(request: HttpRequest) -> HttpResponse:
        account = ACCOUNTS.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if account is None:
            return HttpResponse(status=401)
        with tagged(client=account, project="support-chatbot"):
            return get_response(request)

    return middleware


def answer(request: HttpRequest) -> HttpResponse:
    """Answer a question; a client over its quota gets a 429."""
    try:
        completion = client.chat.completions.create(
            model="gpt-5.4-mini",
            messages=[{"role": "user", "content": json.loads(request.body)["question"]}],
        )
    except openai.RateLimitError as error:
        refused = refusal_of(error)
        if refused is None:
            raise
        return JsonResponse({"error": str(refused)}, status=429)
    return JsonResponse({"answer": completion.choices[0].message.content})


urlpatterns = [path("answer", answer)]

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=[f"{__name__}.billing"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="only for an example",
    )
    django.setup()

application = get_wsgi_application()
