"""Names that nothing here calls: a framework does, or whoever reads a record."""

# ruff: noqa
_ = object()

# Flower's strategy and client proxy
(
    _.initialize_parameters,
    _.configure_fit,
    _.aggregate_fit,
    _.configure_evaluate,
    _.aggregate_evaluate,
)
_.get_parameters, _.get_properties, _.reconnect
_.group_id
group_id = None
group_id
# TenSEAL's context, mpyc's runtime and connection, asyncio's protocol
_.global_scale, _._pc_level, _.connection_lost, _.__annotations__
exc = None
exc
# What a child process makes and calls by name
_.CkksParser, _.Library, _.respond
# Python, widgets, logging, jupyter_client, nbconvert, IPython
_.__init_subclass__, _.unraisablehook, _.disabled, _.launch_kernel, _.pgid
_.heading, _.inline_math, _.latex_environment, _.output_mimetype, _.template_name
_._file_extension_default, _._repr_html_
# The template of a report
_.help
# Doors for models and scores of the user's own
_.read_scores, _.from_keras
# adversarial-robustness-toolbox
_.loss_gradient, _.nb_classes
# Fields of records, for whoever reads them
_.false_links_se, _.alphas, _.symmetric, _.owner_cpu_seconds, _.linker_cpu_seconds
_.absolute_error, _.relative_error
_.correct
# JupyterLab calls it by its name
_.after_save
# RO-Crate writes it
_.datePublished
_.license
