"""Fuzzing of the term codec: `python -m fuzzing [inputs] [--seed N]`, or `make fuzz` for the two million of a full run.

==============  ====================================================================================================
module          what
==============  ====================================================================================================
``__main__``    starts the processes, adds up their figures, prints the input of a failure
``worker``      one process: atheris (libFuzzer) makes inputs and watches which lines of the reference they reach
``seeds``       what the inputs are made from: the rows of ``conformance/`` and messages of the port
``mutation``    how an input is changed where libFuzzer's own changes hardly ever lead to a term
``checks``      what must hold for every input
``comparison``  whether two terms are the same, with exact types at every depth
==============  ====================================================================================================
"""
