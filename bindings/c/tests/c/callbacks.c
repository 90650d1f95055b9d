/*
 * Callbacks that stop, fail, call back in and free what calls them; several threads at once; work cancelled midway.
 *
 *     callbacks MODEL.gguf MMPROJ.gguf PICTURE.png FOLDER
 */
#include "check.h"

#include <pthread.h>
#include <string.h>

static owlet_model *model;
static owlet_image *image;

static owlet_session *open_session(size_t n_forks, size_t max_new_tokens)
{
    owlet_session *session = NULL;
    owlet_session_options options = owlet_session_options_init();
    owlet_answer_options answer = owlet_answer_options_init();

    answer.greedy = 1;
    answer.max_new_tokens = max_new_tokens;
    options.answer = &answer; /* Copied: it may go. */
    options.n_ctx = 512;
    options.n_threads = 1;
    options.n_forks = n_forks;
    OK(owlet_session_open(model, &options, &session, &error));
    return session;
}

static owlet_message question(void)
{
    owlet_message message = owlet_message_init();
    message.text = "How many circles are there?";
    return message;
}

/* What a callback does, and what it saw. */
struct listener {
    owlet_session *session, *fork;
    owlet_cancel_token *token;
    int32_t result;
    int is_freeing;
    int n_events;
};

static int32_t listen_to(void *user_data, const owlet_event *event)
{
    struct listener *listener = (struct listener *)user_data;
    owlet_message message = question();
    owlet_session *fork = NULL;
    owlet_history *history = NULL;
    size_t n_tokens = 0;

    CHECK(event->struct_size >= sizeof(owlet_event) && event->n_bytes > 0 && event->answer == 0);
    listener->n_events++;
    if (listener->session != NULL) {
        /* Calling back in would wait for itself. */
        EXPECT(OWLET_STATUS_BUSY, owlet_session_ask(listener->session, &message, NULL, NULL, NULL, NULL, &error));
        EXPECT(OWLET_STATUS_BUSY, owlet_session_push(listener->session, &message, &error));
        EXPECT(OWLET_STATUS_BUSY, owlet_session_count_tokens(listener->session, &n_tokens, &error));
        EXPECT(OWLET_STATUS_BUSY, owlet_session_get_history(listener->session, &history, &error));
        EXPECT(OWLET_STATUS_BUSY, owlet_session_set_adapters(listener->session, NULL, NULL, 0, &error));
        EXPECT(OWLET_STATUS_BUSY, owlet_session_fork(listener->session, &fork, &error));
    }
    if (listener->fork != NULL) {
        EXPECT(OWLET_STATUS_BUSY, owlet_session_ask(listener->fork, &message, NULL, NULL, NULL, NULL, &error));
    }
    if (listener->is_freeing) {
        owlet_session_free(listener->fork);
        owlet_session_free(listener->session);
        listener->fork = NULL;
        listener->session = NULL;
        listener->is_freeing = 0;
    }
    if (listener->token != NULL) {
        owlet_cancel_token_cancel(listener->token);
    }
    return listener->result;
}

static size_t count_messages(owlet_session *session)
{
    owlet_history *history = NULL;
    size_t length;
    OK(owlet_session_get_history(session, &history, &error));
    length = owlet_history_length(history);
    owlet_history_free(history);
    return length;
}

static void events_stop_fail_and_cancel(void)
{
    owlet_session *session = open_session(0, 16);
    owlet_message message = question();
    owlet_turn *turn = NULL;
    owlet_turn_report report = owlet_turn_report_init();
    struct listener listener;

    memset(&listener, 0, sizeof(listener));
    listener.result = 77; /* no flow: the callback failed */
    EXPECT(OWLET_STATUS_CALLBACK, owlet_session_ask(session, &message, listen_to, &listener, NULL, &turn, &error));
    CHECK(turn == NULL && listener.n_events == 1 && count_messages(session) == 0);

    listener.result = OWLET_FLOW_CONTINUE;
    listener.token = owlet_cancel_token_new();
    EXPECT(OWLET_STATUS_CANCELLED,
           owlet_session_ask(session, &message, listen_to, &listener, listener.token, &turn, &error));
    EXPECT(OWLET_STATUS_CANCELLED, owlet_session_ask(session, &message, NULL, NULL, listener.token, &turn, &error));
    CHECK(turn == NULL && count_messages(session) == 0);
    owlet_cancel_token_free(listener.token);
    listener.token = owlet_cancel_token_after_ms(0);
    EXPECT(OWLET_STATUS_CANCELLED, owlet_session_ask(session, &message, NULL, NULL, listener.token, &turn, &error));
    owlet_cancel_token_free(listener.token);
    listener.token = NULL;

    listener.n_events = 0;
    listener.result = OWLET_FLOW_STOP;
    OK(owlet_session_ask(session, &message, listen_to, &listener, NULL, &turn, &error));
    OK(owlet_turn_get_report(turn, &report, &error));
    CHECK(report.stop_reason == OWLET_STOP_REASON_CALLER && listener.n_events == 1);
    CHECK(count_messages(session) == 2);
    owlet_turn_free(turn);
    owlet_session_free(session);
}

static void callbacks_that_call_back_in_are_told_so(void)
{
    struct listener listener;
    owlet_message message = question();
    owlet_turn *turn = NULL;

    memset(&listener, 0, sizeof(listener));
    listener.session = open_session(1, 2);
    OK(owlet_session_fork(listener.session, &listener.fork, &error));
    OK(owlet_session_ask(listener.session, &message, listen_to, &listener, NULL, &turn, &error));
    CHECK(listener.n_events > 0);
    owlet_turn_free(turn);

    /* The session and its fork are freed by the callback; the call ends as if they were not. */
    turn = NULL;
    listener.is_freeing = 1;
    OK(owlet_session_ask(listener.session, &message, listen_to, &listener, NULL, &turn, &error));
    CHECK(turn != NULL && owlet_turn_answer(turn) != NULL && listener.session == NULL);
    owlet_turn_free(turn);
}

struct loading {
    int n_calls;
    int32_t result;
};

static int32_t on_loading(void *user_data, float fraction)
{
    struct loading *loading = (struct loading *)user_data;
    loading->n_calls++;
    CHECK(fraction >= 0.0f && fraction <= 1.0f);
    return loading->result;
}

static void loading_is_told_stopped_and_failed(const char *path, const char *mmproj)
{
    owlet_model *other = NULL;
    struct loading loading = {0, OWLET_FLOW_CONTINUE};
    owlet_model_options options = owlet_model_options_init();
    owlet_cancel_token *token = owlet_cancel_token_new();

    options.mmproj = mmproj;
    options.on_progress = on_loading;
    options.user_data = &loading;
    OK(owlet_model_load(path, &options, NULL, &other, &error));
    CHECK(loading.n_calls > 1);
    owlet_model_free(other);
    loading.result = OWLET_FLOW_STOP;
    EXPECT(OWLET_STATUS_CANCELLED, owlet_model_load(path, &options, NULL, &other, &error));
    loading.result = -5;
    EXPECT(OWLET_STATUS_CALLBACK, owlet_model_load(path, &options, NULL, &other, &error));
    loading.result = OWLET_FLOW_CONTINUE;
    owlet_cancel_token_cancel(token);
    EXPECT(OWLET_STATUS_CANCELLED, owlet_model_load(path, &options, token, &other, &error));
    CHECK(other == NULL);
    owlet_cancel_token_free(token);
}

static void *ask_twice(void *session)
{
    owlet_message message = question();
    int i;
    for (i = 0; i < 2; i++) {
        OK(owlet_session_ask((owlet_session *)session, &message, NULL, NULL, NULL, NULL, &error));
    }
    return NULL;
}

static void *describe(void *model_handle)
{
    owlet_message message = question();
    owlet_generate_options options = owlet_generate_options_init();
    owlet_answer_options answer = owlet_answer_options_init();
    owlet_answers *answers = NULL;
    owlet_answer first = owlet_answer_init();
    const owlet_image *images[1];

    images[0] = image;
    message.images = images;
    message.n_images = 1;
    answer.max_new_tokens = 2;
    options.answer = &answer;
    options.n_answers = 3;
    options.n_threads = 1;
    OK(owlet_model_generate((const owlet_model *)model_handle, &message, 1, &options, NULL, NULL, NULL, &answers,
                            &error));
    CHECK(owlet_answers_length(answers) == 3);
    OK(owlet_answers_get(answers, 2, &first, &error));
    CHECK(first.n_tokens > 0 && first.n_tokens <= 2 && first.logprobs[0] <= 0.0f);
    owlet_answers_free(answers);
    return NULL;
}

static void *cancel_soon(void *token)
{
    owlet_cancel_token_cancel((owlet_cancel_token *)token);
    return NULL;
}

static void threads_share_sessions_models_and_tokens(void)
{
    pthread_t threads[4];
    owlet_session *session = open_session(1, 2), *fork = NULL;
    owlet_cancel_token *token = owlet_cancel_token_new();
    owlet_message message = question();
    uint32_t status;
    int i;

    OK(owlet_session_fork(session, &fork, &error));
    CHECK(pthread_create(&threads[0], NULL, ask_twice, session) == 0);
    CHECK(pthread_create(&threads[1], NULL, ask_twice, session) == 0);
    CHECK(pthread_create(&threads[2], NULL, ask_twice, fork) == 0);
    CHECK(pthread_create(&threads[3], NULL, describe, model) == 0);
    for (i = 0; i < 4; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(count_messages(session) == 8 && count_messages(fork) == 4);

    /* Cancelled by another thread, and freed by this one while it may run. */
    CHECK(pthread_create(&threads[0], NULL, cancel_soon, token) == 0);
    do {
        status = (uint32_t)owlet_session_ask(fork, &message, NULL, NULL, token, NULL, NULL);
        CHECK(status == OWLET_STATUS_OK || status == OWLET_STATUS_CANCELLED ||
              status == OWLET_STATUS_CONTEXT_OVERFLOW);
    } while (status == OWLET_STATUS_OK);
    CHECK(pthread_join(threads[0], NULL) == 0);
    owlet_cancel_token_free(token);

    owlet_session_free(session);
    owlet_session_free(fork);
}

struct log_seen {
    int n_lines;
    int n_released;
};

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;

static void on_log(void *user_data, uint32_t level, const char *target, const char *text)
{
    struct log_seen *seen = (struct log_seen *)user_data;
    CHECK(level >= OWLET_LOG_LEVEL_ERROR && level <= OWLET_LOG_LEVEL_DEBUG && target[0] != '\0' && text != NULL);
    CHECK(pthread_mutex_lock(&log_lock) == 0);
    seen->n_lines++;
    CHECK(pthread_mutex_unlock(&log_lock) == 0);
}

static void on_release(void *user_data)
{
    ((struct log_seen *)user_data)->n_released++;
}

static void the_log_is_told_and_given_back(const char *path)
{
    struct log_seen seen = {0, 0}, refused = {0, 0};
    owlet_model *other = NULL;

    OK(owlet_log_set_callback(OWLET_LOG_LEVEL_DEBUG, on_log, &seen, on_release, &error));
    EXPECT(OWLET_STATUS_INVALID_INPUT, owlet_log_set_callback(9, on_log, &refused, on_release, &error));
    CHECK(refused.n_released == 1 && refused.n_lines == 0);
    OK(owlet_model_load(path, NULL, NULL, &other, &error));
    owlet_model_free(other);
    CHECK(seen.n_lines > 0 && seen.n_released == 0);
    OK(owlet_log_set_callback(0, NULL, NULL, NULL, &error));
    CHECK(seen.n_released == 1);
}

static void what_is_saved_goes_on(const char *folder)
{
    char path[4096];
    owlet_session *session = open_session(0, 4), *restored = NULL;
    owlet_session_options options = owlet_session_options_init();
    owlet_message message = question();
    owlet_turn *first = NULL, *second = NULL;
    size_t n_tokens = 0;

    snprintf(path, sizeof(path), "%s/session.owlet", folder);
    OK(owlet_session_ask(session, &message, NULL, NULL, NULL, NULL, &error));
    OK(owlet_session_save(session, path, &error));
    options.n_ctx = 512;
    options.n_threads = 1;
    OK(owlet_session_restore(model, path, &options, NULL, NULL, 0, &restored, &error));
    OK(owlet_session_count_tokens(restored, &n_tokens, &error));
    CHECK(n_tokens > 0 && count_messages(restored) == 2);
    OK(owlet_session_ask(session, &message, NULL, NULL, NULL, &first, &error));
    OK(owlet_session_ask(restored, &message, NULL, NULL, NULL, &second, &error));
    CHECK(strcmp(owlet_turn_answer(first), owlet_turn_answer(second)) == 0);
    owlet_turn_free(first);
    owlet_turn_free(second);
    options.kv_type = OWLET_KV_TYPE_F32;
    owlet_session_free(restored);
    EXPECT(OWLET_STATUS_MISMATCH, owlet_session_restore(model, path, &options, NULL, NULL, 0, &restored, &error));
    owlet_session_free(session);
}

int main(int argc, char **argv)
{
    owlet_model_options options = owlet_model_options_init();

    CHECK(argc == 5);
    options.mmproj = argv[2];
    options.n_threads = 1;
    OK(owlet_model_load(argv[1], &options, NULL, &model, &error));
    OK(owlet_image_open(argv[3], OWLET_ALPHA_DROP, NULL, &image, &error));
    events_stop_fail_and_cancel();
    callbacks_that_call_back_in_are_told_so();
    loading_is_told_stopped_and_failed(argv[1], argv[2]);
    the_log_is_told_and_given_back(argv[1]);
    what_is_saved_goes_on(argv[4]);
    threads_share_sessions_models_and_tokens();
    owlet_image_free(image);
    owlet_model_free(model);
    puts("callbacks and threads behave");
    return 0;
}
