"""How something becomes an attribute of every `zarr.Array`.

In the manner of `xarray.register_dataarray_accessor` and pandas. What is registered under a name is made on first touch
and kept with the array, so it may hold caches of its own; pickles and copies of the array leave it behind.
"""

import importlib
import keyword
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeVar

from zarr import Array

from zarrvec.errors import OptionError

_T = TypeVar("_T", bound=Callable[[Any], Any])
_CACHE: Final = "_zarrvec_accessors"
_LOCK: Final = threading.Lock()


class AccessorRegistrationWarning(UserWarning):
    """An accessor takes the name of another one."""


class _Made(dict[str, Any]):
    """The accessors of one array, which it does not keep alive; pickled as an empty dict."""

    __slots__ = ("owner",)

    def __init__(self, owner: object) -> None:
        super().__init__()
        self.owner = weakref.ref(owner)

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[()]]:
        return dict, ()


class _Accessor:
    """The descriptor that stands in the class `zarr.Array`."""

    def __init__(self, name: str, target: Callable[[Any], Any] | str) -> None:
        self.name = name
        self.target = target

    @property
    def path(self) -> str:
        """Where the accessor is defined, as ``module:name``."""
        if isinstance(self.target, str):
            return self.target
        return f"{self.target.__module__}:{getattr(self.target, '__qualname__', repr(self.target))}"

    def resolve(self) -> Callable[[Any], Any]:
        """Return what makes the accessor, imported now if it was named by a string."""
        if isinstance(self.target, str):
            module, _, attribute = self.target.partition(":")
            self.target = getattr(importlib.import_module(module), attribute)
        return self.target  # type: ignore[return-value]

    def __get__(self, array: Any, owner: type[Any]) -> Any:
        make = self.resolve()
        if array is None:  # zarr.Array.name gives the class, for its documentation
            return make
        made = array.__dict__.get(_CACHE)
        if not isinstance(made, _Made) or made.owner() is not array:  # a shallow copy shares its original's
            made = array.__dict__[_CACHE] = _Made(array)
        if self.name not in made:
            try:
                made[self.name] = make(array)
            except AttributeError as error:  # else hasattr() would say that there is no such accessor
                raise RuntimeError(
                    f"the accessor {self.name!r} ({self.path}) failed to start: {error}"
                ) from error
        return made[self.name]


def register_array_accessor(name: str) -> Callable[[_T], _T]:
    """Register a class as ``array.<name>`` on every `zarr.Array`.

    Parameters
    ----------
    name
        A Python identifier that is no attribute of `zarr.Array`. That of another accessor is taken over with a warning.

    Returns
    -------
    A decorator for a class (or function) of one argument, the array. It is called once for each array object.

    Raises
    ------
    OptionError
        If the name is no identifier, starts with an underscore or belongs to zarr.

    Warns
    -----
    AccessorRegistrationWarning
        If another accessor has the name.

    Examples
    --------
    >>> import zarr
    >>> @register_array_accessor("shape_doc")
    ... class ShapeDoc:
    ...     def __init__(self, array):
    ...         self._array = array
    ...
    ...     def text(self):
    ...         return " x ".join(map(str, self._array.shape))
    >>> zarr.create_array(zarr.storage.MemoryStore(), shape=(4, 2), dtype="f4").shape_doc.text()
    '4 x 2'
    >>> unregister_array_accessor("shape_doc")
    """

    def decorate(target: _T) -> _T:
        _register(_Accessor(name, target))
        return target

    _check_name(name)
    return decorate


def register_lazy_array_accessor(name: str, target: str) -> None:
    """Register ``"module:name"`` as ``array.<name>``; the module is imported when the attribute is touched.

    Parameters, errors and warnings are those of `register_array_accessor`; registering the same again does nothing.

    Raises
    ------
    OptionError
        If the target is not of the form ``module:name``, or as for `register_array_accessor`.
    """
    _check_name(name)
    module, colon, attribute = target.partition(":")
    if not (colon and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise OptionError(f"accessor target {target!r}: expected 'module:name', as 'package.module:Class'")
    _register(_Accessor(name, target))


def unregister_array_accessor(name: str) -> None:
    """Take an accessor off `zarr.Array` again.

    Raises
    ------
    OptionError
        If no accessor has the name.
    """
    with _LOCK:
        if not isinstance(_found(name), _Accessor):
            raise OptionError(f"accessor {name!r} is not registered: nothing to unregister")
        delattr(Array, name)


def _found(name: str) -> Any:
    """Return what stands in the class under the name, without touching a descriptor."""
    return next((vars(base)[name] for base in Array.__mro__ if name in vars(base)), None)


def _check_name(name: object) -> None:
    if (
        not isinstance(name, str)
        or not name.isidentifier()
        or keyword.iskeyword(name)
        or name.startswith("_")
    ):
        raise OptionError(f"accessor name {name!r}: expected a Python identifier with no leading underscore")
    taken = _found(name)
    if taken is not None and not isinstance(taken, _Accessor):
        raise OptionError(f"accessor name {name!r} is an attribute of zarr.Array itself: choose another name")


def _register(accessor: _Accessor) -> None:
    with _LOCK:
        present = _found(accessor.name)
        if isinstance(present, _Accessor):
            if present.path == accessor.path and isinstance(accessor.target, str):
                return
            if (
                present.path != accessor.path
            ):  # the same path is a module run again, in a notebook or by reload
                warnings.warn(
                    f"accessor {accessor.name!r} is taken over from {present.path} by {accessor.path}",
                    AccessorRegistrationWarning,
                    stacklevel=3,
                )
        setattr(Array, accessor.name, accessor)
