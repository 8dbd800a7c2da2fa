"""Monitoring of models while they answer: shapes of calls, truth and drift. No contents of requests are kept.

A `watch` over each model is told of every call and every answer:

    traffic    shapes of calls and requests, counted, and their file
    drift      distributions of inputs and scores, beside those of the beginning
    truth      one input in N, computed again by the eager model in a process of its own
    eager      that process
    notebook   the files of traffic and of baselines
    retuning   a model tuned anew for its traffic, and swapped
    figures    all of this for Prometheus
"""
