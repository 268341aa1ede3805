"""Other tools that answer the same queries. Each file is one: it is run by worker.py, in a process and, where its
packages are not kdexport's, in an environment of its own (environments.py), so it imports nothing of kdexport unless
it runs in kdexport's environment.

A peer that is trained offers  train(task: Task, folder: Path, quick: bool, seed: int) -> dict[str, Any]   facts to keep
A peer that answers offers     load(folder: Path) -> Callable[[str], str]                                  text -> label
"""
