"""`ray.init` as scripts of 2020 call it."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any


def patch(ray: ModuleType) -> None:
    """Lets `ray.init` pass over arguments that Ray has dropped since, and says which."""
    init = ray.init

    def init_2020(*args: Any, **kwargs: Any) -> Any:
        known = {*inspect.signature(init).parameters, "_node_ip_address", "_temp_dir"}  # the latter two by **kwargs
        dropped = sorted(name for name in kwargs if name not in known)
        if dropped:
            sys.stderr.write(f"smrl: ray.init no longer takes {', '.join(dropped)}; left out\n")
        kept = {name: value for name, value in kwargs.items() if name in known}
        return init(*args, **{"include_dashboard": False, **kept})

    ray.init = init_2020  # type: ignore[attr-defined]  # the module's own function, replaced
