"""How a round's updates become one: filters, pre-aggregations, a rule, and what is done with its outcome.

Every part is one small registered object. Those that look at whole updates decide on their Gram
matrix alone, which costs O(n²) to O(n³) and never touches the model's d parameters; those that look
at coordinates see one range of columns at a time. So a round reads its updates once to decide and
once to combine, in constant memory, and its decision holds for the whole vector.
"""
