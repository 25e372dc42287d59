/* The public API: the values between kernels. */
#include <stdlib.h>

#include "driver/api.h"
#include "runtime/observe.h"

_Static_assert((int)SYL_BASIS_GRAPH == SYL_MEANING_SAME && (int)SYL_BASIS_ROTATED == SYL_MEANING_ROTATED &&
                   (int)SYL_BASIS_SCALED == SYL_MEANING_SCALED,
               "public bases are the meanings");

typedef struct session_observer {
    syl_arena arena;
    syl_points points;
    size_t *first; /* [steps + 1]: the points of each step */
    void (*observe)(void *user, const syl_observation *observation);
    void *user;
} session_observer;

/* Behind syl_observation.source. */
typedef struct source {
    const syl_point *point;
    const syl_step_view *view;
} source;

syl_status syl_observation_read(const syl_observation *observation, int64_t begin, int64_t end, float *out) {
    if (!observation || !observation->source || !out || begin < 0 || begin > end || end > observation->rows)
        return SYL_USAGE;
    const source *s = observation->source;
    return syl_point_read(s->point, s->view, begin, end, out);
}

static void step_done(void *user, const syl_step_view *view) {
    const session_observer *o = user;
    for (size_t i = o->first[view->step]; i < o->first[view->step + 1]; i++) {
        const syl_point *point = &o->points.list.p[i];
        source from = {point, view};
        syl_observation observation = {.size = sizeof observation,
                                       .name = point->name,
                                       .element = syl_dtypes[point->dtype].name,
                                       .basis = (int)point->meaning,
                                       .rows = view->rows,
                                       .cols = point->cols,
                                       .source = &from};
        o->observe(o->user, &observation);
    }
}

void api_observer_destroy(session_observer *observer) {
    if (!observer) return;
    syl_arena_free(&observer->arena);
    free(observer);
}

static session_observer *make_observer(const syl_plan *plan) {
    session_observer *o = calloc(1, sizeof *o);
    if (!o) return NULL;
    syl_arena_init(&o->arena);
    syl_points_find(plan, &o->arena, &o->points);
    o->first = SYL_NEW_ARRAY(&o->arena, size_t, plan->steps.n + 1);
    for (size_t step = 0, i = 0; step <= plan->steps.n; step++) {
        while (i < o->points.list.n && o->points.list.p[i].step < step) i++;
        o->first[step] = i;
    }
    return o;
}

syl_status syl_session_observe(syl_session *session,
                               void (*observe)(void *user, const syl_observation *observation), void *user) {
    api_call call;
    SYL_TRY(api_begin(&call, session ? session->instance : NULL));
    if (observe && !session->observer) session->observer = make_observer(session->program->engine->plan);
    if (observe && !session->observer) {
        return api_end(&call, syl_error(call.diag, SYL_ERR_out_of_memory, SYL_NOWHERE,
                                        "no memory to observe \"%s\"", session->program->path));
    }
    syl_observer observer = {observe ? step_done : NULL, session->observer};
    if (observe) {
        session->observer->observe = observe;
        session->observer->user = user;
    }
    if (session->lm.context) syl_context_observe(session->lm.context, &observer);
    if (session->function) syl_function_observe(session->function, &observer);
    return api_end(&call, SYL_OK);
}
