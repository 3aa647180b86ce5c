"""Do accessors stand on every array, once for each, and leave zarr's own attributes alone?"""

import copy
import gc
import pickle
import subprocess
import sys
import warnings
import weakref
from pathlib import Path

import pytest
import zarr
from zarr.storage import LocalStore, MemoryStore

from zarrvec.errors import OptionError
from zarrvec.faces._vec import register_vec
from zarrvec.faces.accessors import (
    AccessorRegistrationWarning,
    register_array_accessor,
    register_lazy_array_accessor,
    unregister_array_accessor,
)


class Probe:
    def __init__(self, array):
        self.array = array


class Other(Probe):
    pass


def array_of(store=None):
    return zarr.create_array(store or MemoryStore(), shape=(4, 2), dtype="f4", overwrite=True)


@pytest.fixture
def probe():
    register_array_accessor("probe")(Probe)
    yield
    unregister_array_accessor("probe")


@pytest.mark.usefixtures("probe")
def test_one_for_each_array():
    array = array_of()
    assert array.probe is array.probe
    assert array.probe.array is array
    assert array_of().probe is not array.probe
    assert vars(zarr)["Array"].probe is Probe
    assert "probe" in dir(array)


@pytest.mark.usefixtures("probe")
def test_copies_and_pickles_make_their_own(tmp_path):
    array = array_of(LocalStore(tmp_path))
    made = array.probe
    twin = copy.copy(array)
    assert twin.probe.array is twin
    assert array.probe.array is array
    loaded = pickle.loads(pickle.dumps(array))
    assert loaded == array
    assert loaded.probe.array is loaded
    assert loaded.probe is not made


@pytest.mark.usefixtures("probe")
def test_arrays_are_not_kept_alive():
    array = array_of()
    gone = weakref.ref(array.probe)
    del array
    gc.collect()
    assert gone() is None


@pytest.mark.usefixtures("probe")
def test_taking_a_name_over_warns():
    with pytest.warns(AccessorRegistrationWarning, match="Probe.*Other"):
        register_array_accessor("probe")(Other)
    assert isinstance(array_of().probe, Other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_array_accessor("probe")(Other)


@pytest.mark.parametrize("name", ["shape", "attrs", "resize", "_x", "__len__", "a b", "", "class", None, 3])
def test_wrong_names(name):
    with pytest.raises(OptionError, match="accessor name"):
        register_array_accessor(name)


@pytest.mark.parametrize("target", ["", "json", "json:", ":loads", "a b:c", "json:a.b"])
def test_wrong_targets(target):
    with pytest.raises(OptionError, match="module:name"):
        register_lazy_array_accessor("probe", target)


def test_unregister_what_is_not_there():
    for name in ("nothing", "shape"):
        with pytest.raises(OptionError, match="not registered"):
            unregister_array_accessor(name)


def test_attribute_errors_inside_are_not_swallowed():
    @register_array_accessor("broken")
    def broken(array):
        return array.no_such_thing

    try:
        with pytest.raises(RuntimeError, match="no_such_thing"):
            hasattr(array_of(), "broken")
    finally:
        unregister_array_accessor("broken")


def test_vec_is_registered_once_and_works():
    register_vec()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_vec()
    assert array_of().vec.search([1, 0], k=2, metric="l2").ids.tolist() == [0, 1]


def test_search_is_imported_on_touch_only():
    code = (
        "import sys, zarr\n"
        "from zarrvec.faces._vec import register_vec\n"
        "register_vec()\n"
        "array = zarr.create_array(zarr.storage.MemoryStore(), shape=(4, 2), dtype='f4')\n"
        "assert not [name for name in sys.modules if name.startswith('zarrvec.search')]\n"
        "array.vec\n"
        "assert 'zarrvec.search.accessor' in sys.modules\n"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
