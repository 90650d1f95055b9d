/*
 * Asks about a picture: every question is answered over what was said before. Thinking goes to stderr, answers to stdout.
 *
 *     chat MODEL.gguf PICTURE QUESTION...
 */
#include <owlet.h>

#include <stdio.h>

/* Prints a piece of the answer as it is written. */
static int32_t print_event(void *user_data, const owlet_event *event)
{
    FILE *stream = event->kind == OWLET_EVENT_KIND_ANSWER ? stdout : stderr;
    size_t *n_bytes = (size_t *)user_data;
    *n_bytes += event->n_bytes;
    if (fwrite(event->text, 1, event->n_bytes, stream) != event->n_bytes) {
        return OWLET_FLOW_STOP;
    }
    fflush(stream);
    return OWLET_FLOW_CONTINUE;
}

static int32_t print_progress(void *user_data, float fraction)
{
    (void)user_data;
    fprintf(stderr, "\rloading %3.0f %%", 100.0 * (double)fraction);
    return OWLET_FLOW_CONTINUE;
}

static int fail(const owlet_error *error)
{
    fprintf(stderr, "error (%s): %s\n", owlet_status_name(owlet_error_status(error)), owlet_error_text(error));
    return 1;
}

int main(int argc, char **argv)
{
    owlet_model *model = NULL;
    owlet_image *image = NULL;
    owlet_session *session = NULL;
    owlet_error *error = NULL;
    int failed = 0;

    if (argc < 4) {
        fprintf(stderr, "usage: %s MODEL.gguf PICTURE QUESTION...\n", argv[0]);
        return 2;
    }

    owlet_model_options model_options = owlet_model_options_init();
    model_options.on_progress = print_progress;
    owlet_answer_options answer_options = owlet_answer_options_init();
    answer_options.greedy = 1;
    answer_options.max_new_tokens = 64;
    owlet_session_options session_options = owlet_session_options_init();
    session_options.answer = &answer_options;
    session_options.n_threads = 1;

    if (owlet_model_load(argv[1], &model_options, NULL, &model, &error) ||
        owlet_image_open(argv[2], OWLET_ALPHA_DROP, NULL, &image, &error) ||
        owlet_session_open(model, &session_options, &session, &error)) {
        failed = fail(error);
    }
    for (int i = 3; i < argc && !failed; i++) {
        const owlet_image *images[] = {image};
        owlet_message question = owlet_message_init();
        owlet_turn *turn = NULL;
        size_t n_bytes = 0;

        question.text = argv[i];
        question.images = images;
        question.n_images = i == 3 ? 1 : 0; /* The picture is shown once. */
        fprintf(stderr, "\n> %s\n", argv[i]);
        if (owlet_session_ask(session, &question, print_event, &n_bytes, NULL, &turn, &error)) {
            failed = fail(error);
        } else {
            owlet_turn_report report = owlet_turn_report_init();
            if (owlet_turn_get_report(turn, &report, NULL) == OWLET_STATUS_OK) {
                fprintf(stderr, "\n(%zu tokens, the first after %.0f ms; %zu bytes)\n", report.n_tokens,
                        report.first_token_ms, n_bytes);
            }
            printf("\n");
        }
        owlet_turn_free(turn);
    }

    owlet_error_free(error);
    owlet_session_free(session);
    owlet_image_free(image);
    owlet_model_free(model);
    return failed;
}
