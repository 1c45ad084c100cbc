"""Rows of finished trainings, and what follows from them: comparisons, tables, claims.

A *row* is one training. Its *condition* is how it was evaluated (protocol, network, IPC, …), its *series* how the
images of its set were made (method, score, pool size, …); rows of one *cell* differ in seeds alone and are averaged. An
*arm* is one side of a comparison; a *baseline* is random images, real or of the same pool. The *units* of a comparison
are the outermost repeated source of noise, pools or selections; trainings are crossed with them.
"""
