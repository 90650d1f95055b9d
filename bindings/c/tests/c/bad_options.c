/*
 * Structs of other versions, numbers out of range, strings and lengths that make no sense: each ends in a status.
 *
 *     bad_options MODEL.gguf MMPROJ.gguf PICTURE.png FOLDER
 */
#include "check.h"
#include "small.h"

#include <math.h>
#include <string.h>

static const char *picture_path;
static owlet_model *model;

static void struct_sizes_are_checked(void)
{
    owlet_session *session = NULL;
    owlet_session_options options = small_session();
    owlet_model_info info = owlet_model_info_init();
    owlet_message messages[2];
    owlet_answers *answers = NULL;

    options.struct_size = 0;
    EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
    options.struct_size = sizeof(size_t) - 1;
    EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
    options.struct_size = sizeof(options) + 1;
    EXPECT(OWLET_STATUS_UNSUPPORTED, owlet_session_open(model, &options, &session, &error));
    options.struct_size = SIZE_MAX;
    EXPECT(OWLET_STATUS_UNSUPPORTED, owlet_session_open(model, &options, &session, &error));
    /* One of a header without the last fields: they are defaults, whatever lies there. */
    options.struct_size = offsetof(owlet_session_options, kv_type);
    options.kv_type = 99;
    OK(owlet_session_open(model, &options, &session, &error));
    owlet_session_free(session);
    options.struct_size = sizeof(options);
    EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));

    info.struct_size = 0;
    EXPECT(INVALID, owlet_model_get_info(model, &info, &error));
    /* No more is written than there is room for. */
    memset(&info, 0x55, sizeof(info));
    info.struct_size = offsetof(owlet_model_info, n_params);
    OK(owlet_model_get_info(model, &info, &error));
    CHECK(info.n_params == UINT64_C(0x5555555555555555) && strcmp(info.architecture, "qwen3vl") == 0);

    messages[0] = asking("owl");
    messages[1] = asking("owl");
    messages[1].struct_size = 8;
    EXPECT(INVALID, owlet_model_generate(model, messages, 2, NULL, NULL, NULL, NULL, &answers, &error));
    EXPECT(OWLET_STATUS_LIMIT, owlet_model_generate(model, messages, SIZE_MAX, NULL, NULL, NULL, NULL, &answers, &error));
}

static void options_out_of_range_are_refused(void)
{
    owlet_session *session = NULL;
    owlet_session_options options;
    owlet_answer_options answer = owlet_answer_options_init();
    owlet_message message = asking("How many owls?");
    const char *stop[] = {NULL};
    size_t i;

    const size_t too_large[] = {SIZE_MAX, SIZE_MAX / 2, (size_t)1 << 40};
    for (i = 0; i < sizeof(too_large) / sizeof(too_large[0]); i++) {
        options = small_session();
        options.n_ctx = too_large[i];
        EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
        options = small_session();
        options.n_forks = too_large[i];
        EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
        options = small_session();
        options.n_ubatch = too_large[i];
        EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
        options = small_session();
        options.n_threads = too_large[i];
        EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
    }
    options = small_session();
    options.kv_type = 4;
    EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
    options = small_session();
    options.flash_attention = UINT32_MAX;
    EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
    options = small_session();
    options.overflow = 2;
    EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
    options = small_session();
    options.thinking = 3;
    EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
    options = small_session();
    options.memory_budget = 1;
    EXPECT(OWLET_STATUS_LIMIT, owlet_session_open(model, &options, &session, &error));
    options = small_session();
    options.system = BAD_TEXT;
    EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
    options = small_session();
    options.tools = "{";
    EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
    options.tools = "[{\"description\": \"nameless\"}]";
    EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
    CHECK(session == NULL);

    /* Answer options are looked at when a session opens, numbers in them when it asks. */
    options = small_session();
    options.answer = &answer;
    answer.json_schema = "{";
    EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
    answer.json_schema = "{}";
    answer.grammar = "start: \"a\"";
    EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
    answer.json_schema = NULL;
    answer.grammar = NULL;
    answer.stop = stop;
    answer.n_stop = 1;
    EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
    answer.stop = NULL;
    EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
    answer.n_stop = 0;
    answer.thinking_budget = -2;
    EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
    answer.thinking_budget = 0;
    answer.greedy = 1;
    answer.temperature = 0.5f;
    EXPECT(INVALID, owlet_session_open(model, &options, &session, &error));
    answer.greedy = 0;
    answer.temperature = NAN;
    OK(owlet_session_open(model, &options, &session, &error));
    EXPECT(INVALID, owlet_session_ask(session, &message, NULL, NULL, NULL, NULL, &error));
    owlet_session_free(session);
    answer.temperature = 1.0f;
    answer.top_p = -1.0f;
    OK(owlet_session_open(model, &options, &session, &error));
    EXPECT(INVALID, owlet_session_ask(session, &message, NULL, NULL, NULL, NULL, &error));
    owlet_session_free(session);
    answer.top_p = 0.0f;
    answer.grammar = "start: \"unclosed";
    OK(owlet_session_open(model, &options, &session, &error));
    CHECK(owlet_session_ask(session, &message, NULL, NULL, NULL, NULL, NULL) != OWLET_STATUS_OK);
    owlet_session_free(session);
}

static void questions_are_checked(void)
{
    owlet_session *session = NULL, *fork = NULL;
    owlet_turn *turn = NULL;
    owlet_image *image = NULL;
    owlet_session_options options = small_session();
    owlet_message message = asking("How many owls?");
    const owlet_image *images[2] = {NULL, NULL};
    char *long_text = (char *)malloc(100001);

    OK(owlet_session_open(model, &options, &session, &error));
    OK(owlet_image_open(picture_path, 0, NULL, &image, &error));
    message.text = NULL;
    EXPECT(INVALID, owlet_session_ask(session, &message, NULL, NULL, NULL, &turn, &error));
    message.text = BAD_TEXT;
    EXPECT(INVALID, owlet_session_ask(session, &message, NULL, NULL, NULL, &turn, &error));
    message.text = "<image> and <image>";
    images[0] = image;
    message.images = images;
    message.n_images = 1;
    EXPECT(INVALID, owlet_session_ask(session, &message, NULL, NULL, NULL, &turn, &error));
    message.n_images = 2; /* the second is NULL */
    EXPECT(INVALID, owlet_session_ask(session, &message, NULL, NULL, NULL, &turn, &error));
    message.n_images = SIZE_MAX;
    EXPECT(OWLET_STATUS_LIMIT, owlet_session_ask(session, &message, NULL, NULL, NULL, &turn, &error));
    message = asking("owl");
    message.role = 9;
    EXPECT(INVALID, owlet_session_ask(session, &message, NULL, NULL, NULL, &turn, &error));
    message.role = OWLET_ROLE_ASSISTANT;
    EXPECT(INVALID, owlet_session_ask(session, &message, NULL, NULL, NULL, &turn, &error));
    message.role = OWLET_ROLE_SYSTEM;
    EXPECT(INVALID, owlet_session_push(session, &message, &error));
    CHECK(long_text != NULL);
    memset(long_text, 'o', 100000);
    long_text[100000] = '\0';
    message = asking(long_text);
    EXPECT(OWLET_STATUS_CONTEXT_OVERFLOW, owlet_session_ask(session, &message, NULL, NULL, NULL, &turn, &error));
    CHECK(turn == NULL);
    EXPECT(OWLET_STATUS_LIMIT, owlet_session_fork(session, &fork, &error)); /* no forks were asked for */
    free(long_text);
    owlet_session_free(session);
    owlet_image_free(image);
}

static void scores_and_samples_are_checked(void)
{
    owlet_message message = asking("How many owls?");
    owlet_scores *scores = NULL;
    owlet_answers *answers = NULL;
    owlet_score_options score_options = owlet_score_options_init();
    owlet_generate_options options = owlet_generate_options_init();
    const char *texts[] = {"one", BAD_TEXT, NULL};
    owlet_adapter *no_adapter[] = {NULL};

    EXPECT(INVALID, owlet_model_score(model, &message, 1, texts, 0, NULL, NULL, &scores, &error));
    EXPECT(INVALID, owlet_model_score(model, &message, 1, texts, 2, NULL, NULL, &scores, &error));
    EXPECT(INVALID, owlet_model_score(model, &message, 1, texts + 2, 1, NULL, NULL, &scores, &error));
    EXPECT(INVALID, owlet_model_score(model, &message, 0, texts, 1, NULL, NULL, &scores, &error));
    EXPECT(OWLET_STATUS_LIMIT, owlet_model_score(model, &message, 1, texts, SIZE_MAX, NULL, NULL, &scores, &error));
    score_options.temperature = -1.0f;
    EXPECT(INVALID, owlet_model_score(model, &message, 1, texts, 1, &score_options, NULL, &scores, &error));
    score_options.temperature = 0.0f;
    score_options.adapters = (const owlet_adapter *const *)no_adapter;
    score_options.n_adapters = 1;
    EXPECT(INVALID, owlet_model_score(model, &message, 1, texts, 1, &score_options, NULL, &scores, &error));

    options.n_threads = 1;
    options.n_answers = SIZE_MAX;
    EXPECT(OWLET_STATUS_LIMIT, owlet_model_generate(model, &message, 1, &options, NULL, NULL, NULL, &answers, &error));
    options.n_answers = 1;
    options.n_parallel = 100000;
    EXPECT(INVALID, owlet_model_generate(model, &message, 1, &options, NULL, NULL, NULL, &answers, &error));
    options.n_parallel = 0;
    options.n_threads = 10000;
    EXPECT(INVALID, owlet_model_generate(model, &message, 1, &options, NULL, NULL, NULL, &answers, &error));
    options.n_threads = 1;
    EXPECT(INVALID, owlet_model_generate(model, &message, 0, &options, NULL, NULL, NULL, &answers, &error));
    CHECK(scores == NULL && answers == NULL);
}

int main(int argc, char **argv)
{
    owlet_model_options options = owlet_model_options_init();

    CHECK(argc == 5);
    picture_path = argv[3];
    options.mmproj = argv[2];
    options.n_threads = 1;
    OK(owlet_model_load(argv[1], &options, NULL, &model, &error));

    struct_sizes_are_checked();
    options_out_of_range_are_refused();
    questions_are_checked();
    scores_and_samples_are_checked();

    owlet_model_free(model);
    puts("every number out of range got its status");
    return 0;
}
