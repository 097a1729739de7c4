# What every A-FAN config adds to a stock one, beside its sites and
# optim_wrapper=dict(type='AFANOptimWrapper').
custom_imports = dict(imports=['afan_mm'], allow_failed_imports=False)
custom_hooks = [dict(type='AFANHook', interval=50)]
