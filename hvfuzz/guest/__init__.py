"""Guest programs: their ops, text and byte forms, generation, mutation and execution.

Generation and mutation follow tables. To extend them, add an entry to one:

    program/instruction_kinds.py    instruction_kinds: a kind of op (and a function in run/instructions.py)
    grammar/op_weights.py           DEFAULT_WEIGHTS: how often a kind of op is generated
    generate/values.py              VALUE_GENERATORS: a generator for a kind of argument
    generate/templates/             template_table.TEMPLATES: a template, with its weight
    mutate/mutator_table.py         MUTATORS: a mutator, with its weight
"""
