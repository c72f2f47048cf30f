"""Fuzz the term codec: `python -m fuzzing [inputs] [--seed N]`, or `make fuzz` for a full run of two million inputs.

==============  ====================================================================================================
module          contents
==============  ====================================================================================================
``__main__``    starts the processes, adds up their figures, prints the input of a failure
``worker``      one process: atheris (libFuzzer) makes inputs and watches which lines of the reference they reach
``seeds``       the first inputs: the rows of ``conformance/`` and messages of the port
``mutation``    changes of inputs that lead to terms more often than libFuzzer's own changes
``checks``      the properties that must hold for every input
``comparison``  whether two terms are the same, with exact types at every depth
==============  ====================================================================================================
"""
