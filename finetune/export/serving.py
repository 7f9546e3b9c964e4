def add_serving(draft, record, targets, say): return []
