"""The network of a sandbox: what it may reach, questions that wait for a person, secrets."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .compat import internet, policy
from .errors import NotFoundError, SmolVMError
from .models import InternetSettings, PendingFlow, Policy, Rule
from .transport import CancelScope
from .wire import NDJSON, SSE, bare, ndjson, pick, sse

if TYPE_CHECKING:
    from .core import Core


class Network:
    """What vm.network is."""

    def __init__(self, vm: Core) -> None:
        self._vm = vm

    def get(self) -> dict[str, Any]:
        """Return what the sandbox may reach: mode and policy."""
        return dict(self._vm.call("GET", "network"))

    def set(
        self,
        *,
        mode: str = "",
        policy_: Policy | Mapping[str, Any] | None = None,
        internet_settings: InternetSettings | Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Change it at once. Flows that are not allowed any more end."""
        change: dict[str, Any] = {"mode": mode}
        if policy_ is not None:
            change["policy"] = policy(policy_)
        if internet_settings is not None:
            change["internet_settings"] = internet(internet_settings)
        return dict(self._vm.call("PUT", "network", body={k: v for k, v in change.items() if v}))

    def allow(self, *domains: str, ports: Sequence[str] = ()) -> dict[str, Any]:
        """Put a rule in front of the policy that allows names."""
        return self.add(Rule("allow", domains=domains, ports=ports))

    def add(self, *rules: Rule | Mapping[str, Any]) -> dict[str, Any]:
        """Put rules in front of the policy."""
        return dict(self._vm.call("PUT", "network", body={"add": [bare(r) for r in rules]}))

    def pending(self) -> list[PendingFlow]:
        """Return the flows that wait for an answer."""
        return [pick(PendingFlow, f) for f in self._vm.call("GET", "network", "pending")["flows"] or []]

    def answer(self, flow: PendingFlow | str, allow: bool, *, for_: str = "once") -> dict[str, Any]:
        """Answer one: "once", for the "sandbox"'s life, or for the whole host ("pattern")."""
        id = flow if isinstance(flow, str) else flow.id
        return dict(self._vm.call("POST", "network", "answer", body={"id": id, "allow": allow, "for": for_}))

    def events(self) -> Iterator[dict[str, Any]]:
        """Tell of questions as they come and go, those that wait already first."""
        with self._vm.open("GET", "network", "events", headers=SSE, timeout=None) as lines:
            yield from sse(lines)

    def log(self, *, follow: bool = False, denied: bool = False) -> Iterator[dict[str, Any]]:
        """Tell what was allowed and denied, oldest first."""
        query = {"follow": follow or None, "denied": denied or None}
        with self._vm.open("GET", "network", "log", query=query, headers=NDJSON, timeout=None) as lines:
            yield from ndjson(lines)

    @contextlib.contextmanager
    def approvals(self, decide: Callable[[PendingFlow], bool], *, for_: str = "once") -> Iterator[None]:
        """While it is entered, have decide answer the questions of the policy's ask rules.

        decide runs in a thread of its own. Where it raises, the answer is no.
        """
        scope = CancelScope()
        ready = threading.Event()

        def work() -> None:
            with scope, contextlib.suppress(SmolVMError):
                stream = self._vm.open("GET", "network", "events", headers=SSE, timeout=None)
                ready.set()
                with stream as lines:
                    for event in sse(lines):
                        if event.get("kind") == "pending":
                            self._decide(pick(PendingFlow, event["flow"]), decide, for_)
            ready.set()

        thread = threading.Thread(target=work, name="smolvm-approvals", daemon=True)
        self._vm.start()
        thread.start()
        ready.wait()
        try:
            yield
        finally:
            scope.cancel()
            thread.join(10)

    def _decide(self, flow: PendingFlow, decide: Callable[[PendingFlow], bool], for_: str) -> None:
        try:
            allow = bool(decide(flow))
        except Exception:
            allow = False
        with contextlib.suppress(NotFoundError):  # its time was over, or somebody else answered
            self.answer(flow, allow, for_=for_)


class Secrets:
    """What vm.secrets is. Values go in and never come out."""

    def __init__(self, vm: Core) -> None:
        self._vm = vm

    def list(self) -> list[dict[str, Any]]:
        """Describe the secrets: name, hosts, placeholder, and whether the value is there."""
        return list(self._vm.call("GET", "secrets")["secrets"] or [])

    def set(self, name: str, value: str, hosts: Sequence[str]) -> None:
        """Add a secret, or give one another value or other hosts."""
        self._vm.call("PUT", "secrets", name, body={"value": value, "hosts": list(hosts)})

    def remove(self, name: str) -> None:
        self._vm.call("DELETE", "secrets", name)
