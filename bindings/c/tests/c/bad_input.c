/*
 * NULL in every place, files and pictures that are none, handles that are stale or mixed up: each ends in a status.
 *
 *     bad_input MODEL.gguf MMPROJ.gguf PICTURE.png FOLDER
 */
#include "check.h"
#include "small.h"

#include <string.h>

static const char *model_path, *mmproj_path, *picture_path, *folder;
static owlet_model *model;

/* What `path` in the folder is; one at a time. */
static const char *in_folder(const char *name)
{
    static char path[4096];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static void nulls_are_refused(void)
{
    owlet_model *none = NULL;
    owlet_device_info device = owlet_device_info_init();
    owlet_model_info info = owlet_model_info_init();
    size_t n = 7;
    double corners[4] = {0, 0, 1, 1};

    EXPECT(INVALID, owlet_model_load(NULL, NULL, NULL, &none, &error));
    EXPECT(INVALID, owlet_model_load(model_path, NULL, NULL, NULL, &error));
    EXPECT(INVALID, owlet_model_get_info(NULL, &info, &error));
    EXPECT(INVALID, owlet_model_get_info(model, NULL, &error));
    EXPECT(INVALID, owlet_model_count_tokens(NULL, "owl", NULL, 0, &n, &error));
    EXPECT(INVALID, owlet_model_count_tokens(model, NULL, NULL, 0, &n, &error));
    EXPECT(INVALID, owlet_model_count_tokens(model, "owl", NULL, 0, NULL, &error));
    EXPECT(INVALID, owlet_model_count_tokens(model, "owl", NULL, 1, &n, &error));
    EXPECT(INVALID, owlet_model_box_to_pixels(model, NULL, corners, corners, &error));
    EXPECT(INVALID, owlet_model_box_to_pixels(model, NULL, NULL, corners, &error));
    EXPECT(INVALID, owlet_model_find_tool_calls(model, NULL, NULL, &error));
    EXPECT(INVALID, owlet_model_score(model, NULL, 0, NULL, 0, NULL, NULL, NULL, &error));
    EXPECT(INVALID, owlet_model_generate(model, NULL, 1, NULL, NULL, NULL, NULL, NULL, &error));
    EXPECT(INVALID, owlet_image_open(NULL, 0, NULL, NULL, &error));
    EXPECT(INVALID, owlet_image_from_bytes(NULL, 4, 0, NULL, NULL, &error));
    EXPECT(INVALID, owlet_image_from_pixels(NULL, NULL, &error));
    EXPECT(INVALID, owlet_adapter_open(NULL, NULL, NULL, &error));
    EXPECT(INVALID, owlet_adapter_from_bytes(model, NULL, 0, NULL, &error));
    EXPECT(INVALID, owlet_adapter_get_info(NULL, NULL, &error));
    EXPECT(INVALID, owlet_adapter_check_effect(NULL, 1.0f, 1, NULL, &error));
    EXPECT(INVALID, owlet_session_open(NULL, NULL, NULL, &error));
    EXPECT(INVALID, owlet_session_open(model, NULL, NULL, &error));
    EXPECT(INVALID, owlet_session_ask(NULL, NULL, NULL, NULL, NULL, NULL, &error));
    EXPECT(INVALID, owlet_session_push(NULL, NULL, &error));
    EXPECT(INVALID, owlet_session_set_adapters(NULL, NULL, NULL, 0, &error));
    EXPECT(INVALID, owlet_session_fork(NULL, NULL, &error));
    EXPECT(INVALID, owlet_session_save(NULL, NULL, &error));
    EXPECT(INVALID, owlet_session_restore(model, NULL, NULL, NULL, NULL, 0, NULL, &error));
    EXPECT(INVALID, owlet_session_get_history(NULL, NULL, &error));
    EXPECT(INVALID, owlet_session_count_tokens(NULL, &n, &error));
    EXPECT(INVALID, owlet_history_get(NULL, 0, NULL, &error));
    EXPECT(INVALID, owlet_turn_get_report(NULL, NULL, &error));
    EXPECT(INVALID, owlet_turn_get_call(NULL, 0, NULL, NULL, &error));
    EXPECT(INVALID, owlet_answers_get(NULL, 0, NULL, &error));
    EXPECT(INVALID, owlet_scores_get(NULL, 0, NULL, &error));
    EXPECT(INVALID, owlet_plan_for_session(NULL, NULL, NULL, NULL, &error));
    EXPECT(INVALID, owlet_plan_get_info(NULL, NULL, &error));
    EXPECT(INVALID, owlet_plan_get_part(NULL, 0, NULL, NULL, &error));
    EXPECT(INVALID, owlet_device_list_new(NULL, &error));
    EXPECT(INVALID, owlet_device_list_get(NULL, 0, &device, &error));
    EXPECT(INVALID, owlet_why_no_gpu(NULL, &error));
    CHECK(n == 7 && none == NULL);

    /* Without a place for the error, too. */
    CHECK(owlet_model_load(NULL, NULL, NULL, &none, NULL) == INVALID);

    /* What cannot fail has an answer for NULL. */
    CHECK(owlet_error_status(NULL) == OWLET_STATUS_OK && owlet_error_text(NULL)[0] == '\0');
    CHECK(!owlet_error_place(NULL) && !owlet_error_got(NULL) && !owlet_error_needed(NULL));
    CHECK(owlet_image_width(NULL) == 0 && owlet_image_height(NULL) == 0);
    CHECK(owlet_device_list_length(NULL) == 0 && owlet_history_length(NULL) == 0);
    CHECK(owlet_answers_length(NULL) == 0 && owlet_scores_length(NULL) == 0);
    CHECK(owlet_turn_answer(NULL)[0] == '\0' && owlet_turn_thinking(NULL)[0] == '\0');
    CHECK(owlet_turn_count_calls(NULL) == 0 && owlet_string_text(NULL)[0] == '\0');
    CHECK(!owlet_cancel_token_is_cancelled(NULL));
    owlet_cancel_token_cancel(NULL);
    owlet_cancel_token_free(NULL);
    owlet_error_free(NULL);
    owlet_model_free(NULL);
    owlet_image_free(NULL);
    owlet_session_free(NULL);
    owlet_adapter_free(NULL);
    owlet_turn_free(NULL);
    owlet_history_free(NULL);
    owlet_answers_free(NULL);
    owlet_scores_free(NULL);
    owlet_plan_free(NULL);
    owlet_device_list_free(NULL);
    owlet_string_free(NULL);
}

static void files_are_refused(void)
{
    owlet_model *none = NULL;
    owlet_image *image = NULL;
    owlet_adapter *adapter = NULL;
    owlet_plan *plan = NULL;
    owlet_session *session = NULL;
    owlet_model_options options = owlet_model_options_init();
    owlet_error *told = NULL;

    EXPECT(OWLET_STATUS_NOT_FOUND, owlet_model_load(in_folder("nothing.gguf"), NULL, NULL, &none, &error));
    EXPECT(INVALID, owlet_model_load("", NULL, NULL, &none, &error));
    EXPECT(OWLET_STATUS_INVALID_FILE, owlet_model_load(picture_path, NULL, NULL, &none, &error));
    CHECK(owlet_model_load(BAD_TEXT, NULL, NULL, &none, NULL) != OWLET_STATUS_OK);
    options.mmproj = picture_path;
    EXPECT(OWLET_STATUS_INVALID_FILE, owlet_model_load(model_path, &options, NULL, &none, &error));
    options.mmproj = model_path;
    CHECK(owlet_model_load(model_path, &options, NULL, &none, NULL) != OWLET_STATUS_OK);
    options.mmproj = NULL;
    options.device = "Vulkan9";
    CHECK(owlet_model_load(model_path, &options, NULL, &none, NULL) != OWLET_STATUS_OK);
    options.device = BAD_TEXT;
    EXPECT(INVALID, owlet_model_load(model_path, &options, NULL, &none, &error));
    options.device = "cpu";
    options.n_threads = SIZE_MAX;
    EXPECT(INVALID, owlet_model_load(model_path, &options, NULL, &none, &error));
    options.n_threads = 1;
    options.min_pixels = UINT64_MAX;
    CHECK(owlet_model_load(model_path, &options, NULL, &none, NULL) != OWLET_STATUS_OK);
    CHECK(none == NULL);

    EXPECT(OWLET_STATUS_NOT_FOUND, owlet_image_open(in_folder("nothing.png"), 0, NULL, &image, &error));
    EXPECT(OWLET_STATUS_INVALID_FILE, owlet_image_open(model_path, 0, NULL, &image, &error));
    EXPECT(INVALID, owlet_image_open(folder, 0, NULL, &image, &error));
    EXPECT(OWLET_STATUS_NOT_FOUND, owlet_adapter_open(model, in_folder("nothing.gguf"), &adapter, &error));
    CHECK(owlet_adapter_open(model, model_path, &adapter, NULL) != OWLET_STATUS_OK);
    EXPECT(OWLET_STATUS_INVALID_FILE, owlet_adapter_from_bytes(model, (const uint8_t *)"GGUF", 4, &adapter, &error));
    EXPECT(OWLET_STATUS_INVALID_FILE, owlet_adapter_from_bytes(model, NULL, 0, &adapter, &error));
    EXPECT(OWLET_STATUS_LIMIT, owlet_adapter_from_bytes(model, (const uint8_t *)"GGUF", SIZE_MAX, &adapter, &error));
    EXPECT(OWLET_STATUS_NOT_FOUND, owlet_plan_for_session(in_folder("nothing.gguf"), NULL, NULL, &plan, &error));
    EXPECT(OWLET_STATUS_INVALID_FILE, owlet_plan_for_session(picture_path, NULL, NULL, &plan, &error));
    EXPECT(OWLET_STATUS_INVALID_FILE,
           owlet_session_restore(model, picture_path, NULL, NULL, NULL, 0, &session, &error));

    /* The error tells its parts. */
    CHECK(owlet_model_load(in_folder("nothing.gguf"), NULL, NULL, &none, &told) == OWLET_STATUS_NOT_FOUND);
    CHECK(strcmp(owlet_status_name(owlet_error_status(told)), "not_found") == 0);
    CHECK(strstr(owlet_error_text(told), "nothing.gguf") != NULL);
    CHECK(owlet_error_place(told) != NULL && strstr(owlet_error_place(told), "nothing.gguf") != NULL);
    owlet_error_free(told);
}

static void pictures_are_checked(void)
{
    uint8_t bytes[64];
    owlet_image *image = NULL;
    owlet_pixels pixels = owlet_pixels_init();

    memset(bytes, 200, sizeof(bytes));
    EXPECT(OWLET_STATUS_INVALID_FILE, owlet_image_from_bytes(bytes, sizeof(bytes), 0, NULL, &image, &error));
    EXPECT(OWLET_STATUS_INVALID_FILE, owlet_image_from_bytes(bytes, 0, 0, NULL, &image, &error));
    EXPECT(OWLET_STATUS_LIMIT, owlet_image_from_bytes(bytes, SIZE_MAX, 0, NULL, &image, &error));
    EXPECT(OWLET_STATUS_LIMIT, owlet_image_from_bytes(bytes, (size_t)1 << 40, 0, NULL, &image, &error));
    EXPECT(INVALID, owlet_image_from_bytes(bytes, sizeof(bytes), 99, NULL, &image, &error));

    pixels.data = bytes;
    pixels.n_bytes = sizeof(bytes);
    pixels.width = 4;
    pixels.height = 4;
    EXPECT(INVALID, owlet_image_from_pixels(&pixels, &image, &error)); /* no format */
    pixels.format = 77;
    EXPECT(INVALID, owlet_image_from_pixels(&pixels, &image, &error));
    pixels.format = OWLET_PIXEL_FORMAT_RGBA8;
    OK(owlet_image_from_pixels(&pixels, &image, &error));
    CHECK(owlet_image_width(image) == 4 && owlet_image_height(image) == 4);
    owlet_image_free(image);
    pixels.height = 5;
    EXPECT(INVALID, owlet_image_from_pixels(&pixels, &image, &error));
    CHECK(image == NULL);
    pixels.height = UINT32_MAX;
    pixels.width = UINT32_MAX;
    EXPECT(INVALID, owlet_image_from_pixels(&pixels, &image, &error));
    pixels.width = 4;
    pixels.height = 4;
    pixels.stride = SIZE_MAX;
    EXPECT(INVALID, owlet_image_from_pixels(&pixels, &image, &error));
    pixels.stride = 3;
    EXPECT(INVALID, owlet_image_from_pixels(&pixels, &image, &error));
    pixels.stride = 0;
    pixels.orientation = 9;
    EXPECT(INVALID, owlet_image_from_pixels(&pixels, &image, &error));
    pixels.orientation = 6;
    pixels.alpha = 2;
    EXPECT(INVALID, owlet_image_from_pixels(&pixels, &image, &error));
    pixels.alpha = OWLET_ALPHA_OVER_WHITE;
    pixels.width = 0;
    EXPECT(INVALID, owlet_image_from_pixels(&pixels, &image, &error));
    pixels.width = 2;
    OK(owlet_image_from_pixels(&pixels, &image, &error));
    CHECK(owlet_image_width(image) == 4 && owlet_image_height(image) == 2);
    owlet_image_free(image);
}

/* Handles that are freed, freed twice, of another type, or no handles at all. */
static void handles_are_known(void)
{
    owlet_cancel_token *token = owlet_cancel_token_new();
    owlet_image *image = NULL, *none = NULL;
    owlet_session *session = NULL;
    owlet_message message = asking("owl");
    owlet_error *error_object = NULL;
    union {
        char bytes[256];
        size_t aligned;
    } junk;

    memset(&junk, 0x41, sizeof(junk));
    OK(owlet_image_open(picture_path, 0, token, &image, &error));
    EXPECT(INVALID, owlet_session_open((const owlet_model *)(const void *)image, NULL, &session, &error));
    EXPECT(INVALID, owlet_session_open((const owlet_model *)(const void *)&junk, NULL, &session, &error));
    EXPECT(INVALID, owlet_session_open((const owlet_model *)(const void *)token, NULL, &session, &error));
    EXPECT(INVALID, owlet_session_push((owlet_session *)(void *)model, &message, &error));
    EXPECT(INVALID, owlet_image_open(picture_path, 0, (const owlet_cancel_token *)(const void *)model, &none, &error));
    CHECK(none == NULL);
    CHECK(owlet_error_text((const owlet_error *)(const void *)&junk)[0] == '\0');
    owlet_error_free((owlet_error *)(void *)&junk);
    owlet_image_free((owlet_image *)(void *)token);
    CHECK(!owlet_cancel_token_is_cancelled(token));
    owlet_cancel_token_cancel(token);
    CHECK(owlet_cancel_token_is_cancelled(token));
    EXPECT(OWLET_STATUS_CANCELLED, owlet_image_open(picture_path, 0, token, &none, &error));
    owlet_image_free(image);
    owlet_cancel_token_free(token);
    owlet_cancel_token_free(token);
    owlet_cancel_token_cancel(token);
    CHECK(owlet_model_load(NULL, NULL, NULL, NULL, &error_object) == INVALID);
    owlet_error_free(error_object);
    owlet_error_free(error_object);
    CHECK(owlet_error_text(error_object)[0] == '\0');
}

/* The model goes first; what was made with it goes on. */
static void the_order_of_freeing_is_free(void)
{
    owlet_model *other = NULL;
    owlet_session *session = NULL, *fork = NULL;
    owlet_turn *turn = NULL;
    owlet_history *history = NULL;
    owlet_session_options options = small_session();
    owlet_answer_options answer = owlet_answer_options_init();
    owlet_message message = asking("How many owls?");

    answer.max_new_tokens = 2;
    options.answer = &answer;
    options.n_forks = 1;
    OK(owlet_model_load(model_path, NULL, NULL, &other, &error));
    OK(owlet_session_open(other, &options, &session, &error));
    owlet_model_free(other);
    EXPECT(INVALID, owlet_session_open(other, &options, &fork, &error));
    OK(owlet_session_ask(session, &message, NULL, NULL, NULL, &turn, &error));
    OK(owlet_session_fork(session, &fork, &error));
    OK(owlet_session_get_history(fork, &history, &error));
    owlet_session_free(session);
    EXPECT(INVALID, owlet_session_ask(session, &message, NULL, NULL, NULL, NULL, &error));
    OK(owlet_session_ask(fork, &message, NULL, NULL, NULL, NULL, &error));
    owlet_session_free(fork);
    CHECK(owlet_history_length(history) == 2 && owlet_turn_answer(turn) != NULL);
    EXPECT(INVALID, owlet_history_get(history, 2, NULL, &error));
    EXPECT(INVALID, owlet_turn_get_call(turn, 0, NULL, NULL, &error));
    owlet_turn_free(turn);
    owlet_history_free(history);
}

static void outputs_are_beyond_no_end(void)
{
    owlet_device_list *devices = NULL;
    owlet_device_info device = owlet_device_info_init();

    OK(owlet_device_list_new(&devices, &error));
    CHECK(owlet_device_list_length(devices) > 0);
    OK(owlet_device_list_get(devices, 0, &device, &error));
    CHECK(device.name[0] != '\0');
    EXPECT(INVALID, owlet_device_list_get(devices, owlet_device_list_length(devices), &device, &error));
    EXPECT(INVALID, owlet_device_list_get(devices, SIZE_MAX, &device, &error));
    owlet_device_list_free(devices);
    CHECK(strcmp(owlet_status_name((owlet_status)12345), "unknown") == 0);
    CHECK(strcmp(owlet_status_name(OWLET_STATUS_OK), "ok") == 0);
}

int main(int argc, char **argv)
{
    owlet_model_options options = owlet_model_options_init();

    CHECK(argc == 5);
    model_path = argv[1];
    mmproj_path = argv[2];
    picture_path = argv[3];
    folder = argv[4];
    options.mmproj = mmproj_path;
    options.n_threads = 1;
    OK(owlet_model_load(model_path, &options, NULL, &model, &error));

    nulls_are_refused();
    files_are_refused();
    pictures_are_checked();
    handles_are_known();
    the_order_of_freeing_is_free();
    outputs_are_beyond_no_end();

    owlet_model_free(model);
    puts("every misuse got its status");
    return 0;
}
