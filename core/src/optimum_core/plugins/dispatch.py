"""The plugin manager: loads plugins, each guarded, and calls one backend at a time through the wrappers of all."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import pluggy
from importlib_metadata import EntryPoint

from optimum_core.errors import OptimumError, PluginError, UnavailableError, momentary, noticing_full_disks
from optimum_core.hookspecs import PROJECT, Hooks
from optimum_core.plugins.blame import blamed, foreign, raising_wrapper, wrong_result
from optimum_core.plugins.compatibility import CORE, mismatch, too_new
from optimum_core.plugins.contract import HOOKS, check_hooks, check_object, implementations, wraps
from optimum_core.plugins.discovery import (
    DISABLED_ENV,
    NAME_REMEDY,
    PluginInfo,
    Record,
    Status,
    disabled_names,
    discover,
    fresh,
    name_problem,
    show,
    strict,
    tell,
)
from optimum_core.plugins.naming import explain, note_of_missing
from optimum_core.plugins.runners import Direct, Infer, Runner, own_runner
from optimum_core.plugins.support_check import misfit
from optimum_core.plugins.weight import weighed
from optimum_core.types import (
    Array,
    Artifact,
    ExportRequest,
    Hardware,
    OptimizeRequest,
    QuantizeRequest,
    Session,
    SessionRequest,
    Support,
)

_DEEDS = {"probe": "say what it can do here", "load_session": "load sessions", "infer": "run sessions"}


class PluginManager:
    """Manager that finds, loads and calls backends. Thread-safe.

    Args:
        entry_points: entry points to use; None: the installed ones. Read on first use, as are the variables.

    With `OPTIMUM_STRICT_PLUGINS=1` every method that loads plugins raises `PluginError` for the first broken one.
    """

    def __init__(self, entry_points: Iterable[EntryPoint] | None = None) -> None:
        self._entry_points = entry_points
        self._pm = pluggy.PluginManager(PROJECT)
        self._pm.add_hookspecs(Hooks)
        self._lock = threading.RLock()
        self._records: list[Record] | None = None
        self._loading = self._loaded = False
        self._callers: dict[tuple[str, str], pluggy.HookCaller] = {}
        self._runners: dict[str, Runner] = {}
        self._supports: dict[tuple[str, Hardware], Support] = {}

    def register(self, plugin: object, name: str) -> None:
        """Add a plugin in this process: an observer with hook wrappers, or a whole backend.

        Raises:
            PluginError: the name is taken, or `plugin` breaks the hook contract; then nothing is registered.
        """
        with self._lock:
            records, record = self._found(), Record(name=name)
            if problem := name_problem(name):
                raise PluginError(f"plugin {name!r}", f"its name {problem}", NAME_REMEDY)
            if taken := next((other for other in records if other.name == name), None):
                why = f"the name is taken by {taken.label}, so {show(plugin)} cannot have it"
                raise PluginError(f"plugin {name!r}", why, f"choose another name, or unregister({name!r}) first")
            if name in disabled_names():
                record.status = Status.DISABLED
            else:
                self._admit(record, plugin)
            self._records = sorted([*records, record], key=lambda item: item.identity)
            self._forget_callers()

    def unregister(self, name: str) -> None:
        """Remove every plugin of this name; sessions that it loaded can no longer run.

        Raises:
            UnavailableError: there is none.
        """
        with self._lock:
            records = self._found()
            gone = [record for record in records if record.name == name]
            if not gone:
                self._unknown(name)
            if self._pm.has_plugin(name):
                self._pm.unregister(name=name)
            self._records = [record for record in records if record.name != name]
            self._supports = {key: value for key, value in self._supports.items() if key[0] != name}
            self._forget_callers()

    def infos(self) -> tuple[PluginInfo, ...]:
        """Return all plugins found, ordered by name, then distribution. Loads all plugins."""
        return tuple(record.info() for record in self._all())

    def names(self) -> tuple[str, ...]:
        """Return the ready backends, ordered by name. A plugin that only wraps hooks is no backend."""
        return tuple(record.name for record in self._all() if record.status is Status.READY and record.answers)

    def missing_note(self) -> str:
        """Return a note for users where only core's own backends can compete; empty if another is ready or disabled."""
        return note_of_missing([record for record in self._all() if record.distribution != CORE])

    def is_installed(self, name: str) -> bool:
        """Whether a distribution ships this backend, so that other processes of this environment find it too."""
        return any(item.name == name and item.entry_point is not None for item in self._all())

    def implements(self, name: str, hook: str) -> bool:
        """Whether a ready backend implements `hook` itself; wrapping it does not count."""
        return any(item.name == name and item.status is Status.READY and hook in item.answers for item in self._all())

    def support(self, name: str, hardware: Hardware) -> Support:
        """Return what one backend can do on `hardware`; it is probed once per hardware.

        Raises:
            UnavailableError: no such backend is installed, or it has no probe.
            PluginError: it is broken, disabled or a duplicate, or its probe fails (and it is broken from then on).
        """
        record = self._ready(name)
        key = name, hardware
        found = self._supports.get(key)
        if found is None:
            found = self._supports[key] = self._probe(record, hardware)
        return found

    def supports(self, hardware: Hardware) -> dict[str, Support]:
        """Return the support of every ready backend that has a probe; one whose probe fails becomes broken."""
        found: dict[str, Support] = {}
        for record in self._all():
            if record.status is Status.READY and "probe" in record.answers:
                try:
                    found[record.name] = self.support(record.name, hardware)
                except PluginError:  # kept in the record, shown by infos()
                    if strict():
                        raise
        return found

    def check_options(self, name: str, options: Mapping[str, Any], hardware: Hardware) -> None:
        """Check options by the backend's `check_options`, where it has one, before any work is done.

        Raises:
            OptionError: the backend rejects them.
            UnavailableError, PluginError: as `support` does.
        """
        record, check = self._ready(name), self.support(name, hardware).check_options
        if check is not None and options:
            try:
                check(options)
            except OptimumError:
                raise
            except Exception as cause:
                why = f"its check of options raised {tell(cause)}"
                raise PluginError(record.label, why, record.remedy()) from cause

    def export(self, request: ExportRequest) -> Artifact:
        """Export a model with `request.backend`. Raises as `load_session` does."""
        return self._built("export", request)

    def optimize(self, request: OptimizeRequest) -> Artifact:
        """Optimize an artifact with `request.backend`. Raises as `load_session` does."""
        return self._built("optimize", request)

    def quantize(self, request: QuantizeRequest) -> Artifact:
        """Quantize an artifact with `request.backend`. Raises as `load_session` does."""
        return self._built("quantize", request)

    def load_session(self, request: SessionRequest) -> Session:
        """Open an artifact with `request.backend`.

        Raises:
            UnavailableError: no such backend is installed, or it lacks the hook.
            PluginError: it is broken, disabled or a duplicate, raises another library's error, or returns a wrong type.
            OptimumError: any error of ours that the backend raises.
        """
        record = self._ready(request.backend)
        with blamed(self._pm, record, "load_session", self._named):
            session = self._caller(record.name, "load_session")(request=request)
            if not isinstance(session, Session):
                raise wrong_result(record, "load_session", session, Session)
        return session

    def binder(self, session: Session) -> Infer:
        """Return the function that runs `session` by its backend's hooks, from arrays by name to arrays by name. It
        adds microseconds per call.

        It follows `register` and `unregister`: an observer registered later sees the calls, another backend never.
        Raises (here, and from the function) as `load_session` does.
        """
        record = self._ready(session.backend)
        name, runners = record.name, self._runners
        self._runner(name)

        def infer(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            runner = runners.get(name) or self._runner(name)
            try:
                outputs = runner(session, inputs)
            except OptimumError as error:
                if (fault := momentary(error)) is not error:
                    raise fault from error
                raise
            except (Exception, SystemExit) as cause:
                raise foreign(self._pm, record, "infer", cause, self._named) from cause
            if outputs is None:
                raise wrong_result(record, "infer", None, Mapping)
            return outputs

        return infer

    def direct(self, session: Session) -> Direct | None:
        """Return the session's own function, where it has one (see `Session`) and no plugin wraps `infer`."""
        if (call := getattr(session, "direct", None)) is None:
            return None
        runner = own_runner(self._caller(self._ready(session.backend).name, "infer"))
        return None if runner is None else Direct(call, self._runners, session.backend, runner)

    def _found(self) -> list[Record]:
        """Return all records, from metadata only."""
        with self._lock:
            if self._records is None:
                self._records = discover(self._entry_points)
            return self._records

    def _all(self) -> list[Record]:
        """Return all records after loading every plugin: a wrapper that is not loaded yet would miss calls."""
        if not self._loaded:
            self._load_all()
        records = self._found()
        if strict():
            for record in records:
                if record.status is Status.BROKEN and record.error is not None:
                    raise fresh(record.error)
        return records

    def _load_all(self) -> None:
        with self._lock:
            if self._loading:
                why, remedy = "a plugin asks for backends while it is being imported", "ask inside its hooks instead"
                raise PluginError("the plugin manager", why, remedy)
            self._loading = True
            try:
                for record in self._found():
                    if record.status is None:
                        self._load(record)
            finally:
                self._loading = False
                self._forget_callers()
            self._loaded = True

    def _load(self, record: Record) -> None:
        assert record.entry_point is not None
        if found := mismatch(record):
            record.refuse(found.why, found.remedy)
            return
        try:
            with weighed(record):
                plugin = record.entry_point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as cause:  # noqa: BLE001  (recorded and reported; `sys.exit` at import must not end us)
            record.refuse(f"cannot be imported: {tell(cause)}", too_new(cause) or record.remedy(), cause)
            return
        try:
            self._admit(record, plugin)
        except PluginError as error:
            record.status, record.error = Status.BROKEN, error

    def _admit(self, record: Record, plugin: object) -> None:
        """Register a plugin with pluggy, or raise `PluginError` and leave pluggy unchanged."""
        try:
            check_object(record, plugin)
            check_hooks(record, plugin, self._pm)
            if twin := self._pm.get_name(plugin):
                why = f"{show(plugin)} is already registered as {twin!r}"
                raise PluginError(record.label, why, "give each name a module or object of its own")
            self._pm.register(plugin, name=record.name)
        except OptimumError:
            raise
        except Exception as cause:
            self._pm.unregister(name=record.name)
            why = f"breaks the hook contract: {tell(cause)}"
            raise PluginError(record.label, why, "compare it with optimum_core/hookspecs.py") from cause
        mine = {hook: implementations(self._pm, hook, of=plugin) for hook in HOOKS}
        record.plugin, record.status = plugin, Status.READY
        record.hooks = tuple(hook for hook in HOOKS if mine[hook])
        record.answers = frozenset(hook for hook in HOOKS if not all(map(wraps, mine[hook])))

    def _ready(self, name: str) -> Record:
        """Return the record of a backend that may be called, or raise the reason why it may not."""
        record = next((record for record in self._all() if record.name == name), None)
        if record is None:
            self._unknown(name)
        if record.error is not None:
            raise fresh(record.error)
        if record.status is Status.DISABLED:
            raise PluginError(record.label, f"is disabled by {DISABLED_ENV}", f"take {name!r} out of that variable")
        return record

    def _unknown(self, name: str) -> NoReturn:
        status = {record.name: record.status for record in self._found()}
        shown = [key if value in (None, Status.READY) else f"{key} ({value})" for key, value in status.items()]
        asked = {backend: support for (backend, _), support in self._supports.items()}
        why, remedy = explain(name, list(status), asked)
        raise UnavailableError(f"backend {name!r}", f"{why}; installed backends: {', '.join(shown) or 'none'}", remedy)

    def _caller(self, name: str, hook: str) -> pluggy.HookCaller:
        """Return the caller of one backend's `hook`, which includes the wrappers of all plugins."""
        if (caller := self._callers.get((name, hook))) is not None:
            return caller
        with self._lock:
            record = self._named(name)
            if record is None:
                self._unknown(name)
            if hook not in record.answers:
                others = ", ".join(other for other in self.names() if self.implements(other, hook))
                why = f"does not {_DEEDS.get(hook, hook)} (it has no {hook!r} hook)"
                raise UnavailableError(record.label, why, f"use a backend that does: {others or 'none is installed'}")
            # A plugin that both implements and wraps a hook is removed entirely: pluggy cannot drop one function of it.
            answering = {impl.plugin for impl in implementations(self._pm, hook) if not wraps(impl)}
            others_answering = [plugin for plugin in answering if plugin is not record.plugin]
            caller = self._pm.subset_hook_caller(hook, remove_plugins=others_answering)
            self._callers[name, hook] = caller
            return caller

    def _runner(self, name: str) -> Runner:
        """Return the function that runs a session of one backend once: its own where no plugin wraps it, as pluggy's
        overhead is larger than all else that core does around a call."""
        with self._lock:
            caller = self._caller(name, "infer")
            through_pluggy = lambda session, inputs: caller(session=session, inputs=inputs)  # noqa: E731
            self._runners[name] = own_runner(caller) or through_pluggy
            return self._runners[name]

    def _forget_callers(self) -> None:
        self._callers.clear()
        self._runners.clear()

    def _probe(self, record: Record, hardware: Hardware) -> Support:
        caller = self._caller(record.name, "probe")
        try:
            answers = caller(hardware=hardware)
        except KeyboardInterrupt:
            raise
        except BaseException as cause:
            wrapper = raising_wrapper(self._pm, "probe", cause, self._named)
            if wrapper is not None and wrapper is not record and self._pm.has_plugin(wrapper.name):
                self._set_aside(wrapper, f"its wrapper of 'probe' raised {tell(cause)}", cause)
                return self._probe(record, hardware)
            why, remedy = f"its probe raised {tell(cause)}", too_new(cause) or record.remedy()
            raise fresh(record.refuse(why, remedy, cause)) from cause
        match answers:
            case [Support() as support]:
                if (found := misfit(support)) is None:
                    return support
                raise fresh(record.refuse(found.why, f"{found.remedy}; or {record.remedy()}"))
            case [answer]:
                error = wrong_result(record, "probe", answer, Support)
            case _:  # several implementations in one plugin, none with a result, or a result changed by a wrapper
                error = wrong_result(record, "probe", answers or None, Support)
        raise fresh(record.refuse(error.why, error.remedy))

    def _set_aside(self, record: Record, why: str, cause: BaseException) -> None:
        """Take a plugin that disturbs other backends out of all calls."""
        with self._lock:
            record.refuse(why, record.remedy(), cause)
            self._pm.unregister(name=record.name)
            self._forget_callers()

    def _named(self, name: str) -> Record | None:
        return next((record for record in self._found() if record.name == name), None)

    def _built(self, hook: str, request: ExportRequest | OptimizeRequest | QuantizeRequest) -> Artifact:
        record = self._ready(request.backend)
        caller = self._caller(record.name, hook)
        with blamed(self._pm, record, hook, self._named), noticing_full_disks(request.output, record.label):
            artifact = caller(request=request)
        if not isinstance(artifact, Artifact):
            raise wrong_result(record, hook, artifact, Artifact)
        return artifact


@functools.cache
def manager() -> PluginManager:
    """Return the single manager of this process, for all installed plugins."""
    return PluginManager()
