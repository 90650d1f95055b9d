/*
 * Jobs, data sets and rewards that are misused, fail, pause, cancel and go on.
 *
 *     adapt_misuse MODEL.gguf MMPROJ.gguf PICTURE.png FOLDER
 */
#include "check.h"

#include <pthread.h>
#include <string.h>

#define INVALID OWLET_STATUS_INVALID_INPUT

static owlet_model *model;
static owlet_dataset *dataset;
static const char *picture_path, *folder;

static owlet_adapt_options small(void)
{
    owlet_adapt_options options = owlet_adapt_options_init();
    options.n_steps = 1;
    options.prompts_per_step = 1;
    options.group_size = 2;
    options.max_new_tokens = 4;
    options.max_prompt_tokens = 256;
    options.n_sequences = 2;
    options.rank = 2;
    options.targets = "q, v";
    options.n_threads = 1;
    options.keep_all_groups = 1;
    return options;
}

static owlet_sample sample(void)
{
    owlet_sample value = owlet_sample_init();
    value.problem = "How many circles are there?";
    value.answer = "3";
    value.problem_type = "numerical";
    return value;
}

static void samples_are_checked(void)
{
    static const char bad_text[] = {(char)0xff, 0};
    owlet_dataset *none = NULL;
    owlet_sample samples[2];
    owlet_picture picture = owlet_picture_init();
    owlet_image *image = NULL;

    samples[0] = sample();
    samples[1] = sample();
    EXPECT(INVALID, owlet_dataset_from_samples(NULL, 1, &none, &error));
    EXPECT(OWLET_STATUS_LIMIT, owlet_dataset_from_samples(samples, SIZE_MAX, &none, &error));
    samples[1].problem_type = "guessing";
    EXPECT(OWLET_STATUS_UNSUPPORTED, owlet_dataset_from_samples(samples, 2, &none, &error));
    samples[1].problem_type = NULL;
    EXPECT(INVALID, owlet_dataset_from_samples(samples, 2, &none, &error));
    samples[1] = sample();
    samples[1].task_type = "dancing";
    EXPECT(OWLET_STATUS_UNSUPPORTED, owlet_dataset_from_samples(samples, 2, &none, &error));
    samples[1] = sample();
    samples[1].problem = "";
    EXPECT(INVALID, owlet_dataset_from_samples(samples, 2, &none, &error));
    samples[1].problem = bad_text;
    EXPECT(INVALID, owlet_dataset_from_samples(samples, 2, &none, &error));
    samples[1] = sample();
    samples[1].n_pictures = 1;
    EXPECT(INVALID, owlet_dataset_from_samples(samples, 2, &none, &error));
    samples[1].pictures = &picture; /* nothing in it */
    EXPECT(INVALID, owlet_dataset_from_samples(samples, 2, &none, &error));
    picture.path = picture_path; /* no mark for it */
    CHECK(owlet_dataset_from_samples(samples, 2, &none, NULL) != OWLET_STATUS_OK);
    samples[1].problem = "<image> How many?";
    picture.data = (const uint8_t *)"GIF";
    picture.n_bytes = 3;
    EXPECT(INVALID, owlet_dataset_from_samples(samples, 2, &none, &error));
    picture.path = NULL;
    EXPECT(OWLET_STATUS_INVALID_FILE, owlet_dataset_from_samples(samples, 2, &none, &error));
    picture.data = NULL;
    picture.path = "/nowhere.png";
    EXPECT(OWLET_STATUS_NOT_FOUND, owlet_dataset_from_samples(samples, 2, &none, &error));
    CHECK(none == NULL && owlet_dataset_length(NULL) == 0);
    picture.path = NULL;
    OK(owlet_image_open(picture_path, OWLET_ALPHA_DROP, NULL, &image, &error));
    picture.image = image;
    OK(owlet_dataset_from_samples(samples, 2, &none, &error));
    CHECK(owlet_dataset_length(none) == 2);
    owlet_dataset_free(none);
    owlet_image_free(image);
    EXPECT(OWLET_STATUS_NOT_FOUND, owlet_dataset_open("/nowhere.jsonl", &none, &error));
    EXPECT(OWLET_STATUS_INVALID_FILE, owlet_dataset_open(picture_path, &none, &error));
}

/* A reward, what it gives and what became of its data. */
struct rule {
    double accuracy;
    int32_t result;
    int n_calls, n_released;
    owlet_adapt_job *job;
};

static int32_t score(void *user_data, const char *response, const owlet_sample_view *view, owlet_reward_parts *parts)
{
    struct rule *rule = (struct rule *)user_data;
    CHECK(response != NULL && strcmp(view->answer, "3") == 0 && strcmp(view->problem_type, "numerical") == 0);
    CHECK(parts->accuracy == 0.0);
    if (rule->job != NULL) {
        uint64_t n_steps;
        EXPECT(OWLET_STATUS_BUSY, owlet_adapt_job_count_steps(rule->job, &n_steps, &error));
        EXPECT(OWLET_STATUS_BUSY, owlet_adapt_job_run(rule->job, NULL, NULL, NULL, &error));
    }
    parts->accuracy = rule->n_calls++ % 2 == 0 ? rule->accuracy : 0.0;
    return rule->result;
}

static void released(void *user_data)
{
    ((struct rule *)user_data)->n_released++;
}

static owlet_reward rule_of(struct rule *rule)
{
    owlet_reward reward = owlet_reward_init();
    memset(rule, 0, sizeof(*rule));
    rule->accuracy = 1.0;
    reward.name = "test, 1";
    reward.score = score;
    reward.user_data = rule;
    reward.release = released;
    return reward;
}

static void jobs_are_opened_with_sense_only(void)
{
    owlet_adapt_job *job = NULL;
    owlet_adapt_options options = small();
    owlet_plan *plan = NULL;
    struct rule rule;
    owlet_reward reward = rule_of(&rule);

    EXPECT(INVALID, owlet_adapt_job_open(NULL, dataset, &options, &reward, NULL, &job, &error));
    CHECK(rule.n_released == 1);
    EXPECT(INVALID, owlet_adapt_job_open(model, NULL, &options, NULL, NULL, &job, &error));
    EXPECT(INVALID, owlet_adapt_job_open(model, dataset, &options, NULL, NULL, NULL, &error));
    reward.name = NULL;
    EXPECT(INVALID, owlet_adapt_job_open(model, dataset, &options, &reward, NULL, &job, &error));
    CHECK(rule.n_released == 2);
    reward.name = "test, 1";
    reward.score = NULL;
    EXPECT(INVALID, owlet_adapt_job_open(model, dataset, &options, &reward, NULL, &job, &error));
    CHECK(rule.n_released == 3);
    reward.struct_size = 0;
    EXPECT(INVALID, owlet_adapt_job_open(model, dataset, &options, &reward, NULL, &job, &error));
    options.method = "magic";
    EXPECT(INVALID, owlet_adapt_job_open(model, dataset, &options, NULL, NULL, &job, &error));
    options = small();
    options.targets = "q,z";
    EXPECT(INVALID, owlet_adapt_job_open(model, dataset, &options, NULL, NULL, &job, &error));
    options = small();
    options.group_size = 1;
    EXPECT(INVALID, owlet_adapt_job_open(model, dataset, &options, NULL, NULL, &job, &error));
    options = small();
    options.rank = SIZE_MAX;
    EXPECT(INVALID, owlet_adapt_job_open(model, dataset, &options, NULL, NULL, &job, &error));
    options = small();
    options.learning_rate = -1.0;
    EXPECT(INVALID, owlet_adapt_job_open(model, dataset, &options, NULL, NULL, &job, &error));
    options = small();
    options.begin = 7;
    EXPECT(INVALID, owlet_adapt_job_open(model, dataset, &options, NULL, NULL, &job, &error));
    options = small();
    options.max_new_tokens = SIZE_MAX;
    CHECK(owlet_adapt_job_open(model, dataset, &options, NULL, NULL, &job, NULL) != OWLET_STATUS_OK);
    options = small();
    options.max_prompt_tokens = 4;
    EXPECT(OWLET_STATUS_CONTEXT_OVERFLOW, owlet_adapt_job_open(model, dataset, &options, NULL, NULL, &job, &error));
    options = small();
    options.memory_budget = 1;
    EXPECT(OWLET_STATUS_LIMIT, owlet_adapt_job_open(model, dataset, &options, NULL, NULL, &job, &error));
    EXPECT(OWLET_STATUS_NOT_FOUND, owlet_plan_for_adaptation("/nowhere.gguf", NULL, &options, &plan, &error));
    options = small();
    options.folder = folder;
    options.begin = OWLET_BEGIN_RESUME;
    EXPECT(OWLET_STATUS_NOT_FOUND, owlet_adapt_job_open(model, dataset, &options, NULL, NULL, &job, &error));
    options = small();
    options.start = picture_path;
    EXPECT(OWLET_STATUS_INVALID_FILE, owlet_adapt_job_open(model, dataset, &options, NULL, NULL, &job, &error));
    CHECK(job == NULL && plan == NULL);
    EXPECT(INVALID, owlet_adapt_job_run(NULL, NULL, NULL, NULL, &error));
    EXPECT(INVALID, owlet_adapt_job_pause(NULL, &error));
    EXPECT(INVALID, owlet_adapt_job_resume(NULL, &error));
    EXPECT(INVALID, owlet_adapt_job_count_steps(NULL, NULL, &error));
    EXPECT(INVALID, owlet_adapt_job_write_adapter(NULL, NULL, &error));
    EXPECT(INVALID, owlet_adapt_job_get_adapter(NULL, NULL, &error));
    EXPECT(INVALID, owlet_adapt_job_evaluate(NULL, NULL, NULL, NULL, NULL, NULL, &error));
    EXPECT(INVALID, owlet_evaluation_get_info(NULL, NULL, &error));
    EXPECT(INVALID, owlet_evaluation_get_answer(NULL, 0, NULL, &error));
    CHECK(owlet_adapt_job_get_state(NULL) == OWLET_JOB_STATE_IDLE);
    owlet_adapt_job_free(NULL);
    owlet_dataset_free(NULL);
    owlet_evaluation_free(NULL);
}

struct watcher {
    owlet_adapt_job *job;
    owlet_cancel_token *token;
    int32_t result;
    int is_pausing;
    int n_steps, n_paused, n_resumed;
};

static int32_t watch(void *user_data, const owlet_progress *progress)
{
    struct watcher *watcher = (struct watcher *)user_data;
    owlet_adapter *adapter = NULL;
    CHECK(progress->struct_size >= sizeof(owlet_progress));
    CHECK((progress->metrics != NULL) == (progress->kind == OWLET_PROGRESS_KIND_STEP_DONE));
    EXPECT(OWLET_STATUS_BUSY, owlet_adapt_job_get_adapter(watcher->job, &adapter, &error));
    if (progress->kind == OWLET_PROGRESS_KIND_STEP_DONE) {
        CHECK(progress->metrics->seconds >= 0.0 && progress->n_steps >= 1);
        watcher->n_steps++;
    }
    if (watcher->is_pausing) {
        OK(owlet_adapt_job_pause(watcher->job, &error));
        watcher->is_pausing = 0;
    }
    if (progress->kind == OWLET_PROGRESS_KIND_PAUSED) {
        CHECK(owlet_adapt_job_get_state(watcher->job) == OWLET_JOB_STATE_PAUSED);
        watcher->n_paused++;
        OK(owlet_adapt_job_resume(watcher->job, &error));
    }
    if (progress->kind == OWLET_PROGRESS_KIND_RESUMED) {
        watcher->n_resumed++;
    }
    if (watcher->token != NULL) {
        owlet_cancel_token_cancel(watcher->token);
    }
    return watcher->result;
}

static void callbacks_fail_pause_and_cancel(void)
{
    owlet_adapt_job *job = NULL;
    owlet_adapt_options options = small();
    owlet_evaluation *evaluation = NULL;
    owlet_evaluation_info info = owlet_evaluation_info_init();
    owlet_evaluated_answer answer = owlet_evaluated_answer_init();
    owlet_adapter *adapter = NULL;
    struct rule rule;
    owlet_reward reward = rule_of(&rule);
    struct watcher watcher;
    uint64_t n_steps = 9;

    memset(&watcher, 0, sizeof(watcher));
    options.folder = folder;
    options.n_steps = 4; /* An interrupted call finishes one at most. */
    OK(owlet_adapt_job_open(model, dataset, &options, &reward, NULL, &job, &error));
    rule.job = job;
    watcher.job = job;

    rule.result = -3; /* the reward fails */
    EXPECT(OWLET_STATUS_CALLBACK, owlet_adapt_job_run(job, NULL, NULL, NULL, &error));
    rule.result = OWLET_FLOW_CONTINUE;
    rule.accuracy = 17.0; /* out of range */
    rule.n_calls = 0;
    EXPECT(OWLET_STATUS_CALLBACK, owlet_adapt_job_run(job, NULL, NULL, NULL, &error));
    rule.accuracy = 1.0;
    rule.n_calls = 0;
    watcher.result = 50;
    EXPECT(OWLET_STATUS_CALLBACK, owlet_adapt_job_run(job, watch, &watcher, NULL, &error));
    watcher.result = OWLET_FLOW_STOP;
    EXPECT(OWLET_STATUS_CANCELLED, owlet_adapt_job_run(job, watch, &watcher, NULL, &error));
    watcher.result = OWLET_FLOW_CONTINUE;
    watcher.token = owlet_cancel_token_new();
    EXPECT(OWLET_STATUS_CANCELLED, owlet_adapt_job_run(job, watch, &watcher, watcher.token, &error));
    owlet_cancel_token_free(watcher.token);
    watcher.token = NULL;
    OK(owlet_adapt_job_count_steps(job, &n_steps, &error));
    CHECK(n_steps < 4 && owlet_adapt_job_get_state(job) == OWLET_JOB_STATE_IDLE);

    watcher.is_pausing = 1;
    watcher.n_steps = 0;
    OK(owlet_adapt_job_run(job, watch, &watcher, NULL, &error));
    CHECK((uint64_t)watcher.n_steps == 4 - n_steps && watcher.n_paused == 1 && watcher.n_resumed == 1);
    CHECK(owlet_adapt_job_get_state(job) == OWLET_JOB_STATE_DONE);
    OK(owlet_adapt_job_run(job, watch, &watcher, NULL, &error)); /* nothing left to do */

    rule.n_calls = 0;
    OK(owlet_adapt_job_evaluate(job, dataset, NULL, NULL, NULL, &evaluation, &error));
    OK(owlet_evaluation_get_info(evaluation, &info, &error));
    CHECK(info.n_answers == 1 && info.accuracy.mean == 1.0);
    OK(owlet_evaluation_get_answer(evaluation, 0, &answer, &error));
    CHECK(answer.accuracy == 1.0 && answer.text != NULL && strcmp(answer.id, "0") == 0);
    EXPECT(INVALID, owlet_evaluation_get_answer(evaluation, 1, &answer, &error));
    owlet_evaluation_free(evaluation);
    OK(owlet_adapt_job_get_adapter(job, &adapter, &error));
    EXPECT(OWLET_STATUS_NOT_FOUND, owlet_adapt_job_write_adapter(job, "/nowhere/adapter.gguf", &error));

    CHECK(rule.n_released == 0);
    owlet_adapt_job_free(job);
    CHECK(rule.n_released == 1);
    EXPECT(INVALID, owlet_adapt_job_run(job, NULL, NULL, NULL, &error));

    /* Another reward is another run. */
    EXPECT(OWLET_STATUS_MISMATCH, owlet_adapt_job_open(model, dataset, &options, NULL, NULL, &job, &error));
    owlet_adapter_free(adapter);
}

/* A reward that prefers long answers, or calls the gate back. */
struct judge {
    owlet_adapter_gate *gate;
    double worth;
};

static int32_t judge_it(void *user_data, const char *response, const owlet_sample_view *view, owlet_reward_parts *parts)
{
    struct judge *judge = (struct judge *)user_data;
    (void)response;
    (void)view;
    EXPECT(OWLET_STATUS_BUSY, owlet_adapter_gate_activate(judge->gate, &error));
    /* The base is asked first, then the candidate. */
    parts->accuracy = judge->worth;
    judge->worth += 0.2;
    return OWLET_FLOW_CONTINUE;
}

static int32_t stop_it(void *user_data, const owlet_progress *progress)
{
    CHECK(progress->kind == OWLET_PROGRESS_KIND_EVALUATING);
    return *(const int32_t *)user_data;
}

static void a_gate_lets_through_what_is_better(void)
{
    char path[4096], gate_folder[4096];
    owlet_adapt_job *job = NULL;
    owlet_adapt_options options = small();
    owlet_adapter_gate *gate = NULL, *second = NULL;
    owlet_gate_rule rule = owlet_gate_rule_init();
    owlet_verdict *verdict = NULL;
    owlet_verdict_info info = owlet_verdict_info_init();
    owlet_reward reward = owlet_reward_init();
    owlet_string *active = NULL;
    owlet_dataset *held_out = NULL;
    owlet_sample samples[2];
    struct judge judge;
    int32_t flow = 5;

    samples[0] = sample();
    samples[1] = sample();
    OK(owlet_dataset_from_samples(samples, 2, &held_out, &error));
    snprintf(path, sizeof(path), "%s/candidate.gguf", folder);
    snprintf(gate_folder, sizeof(gate_folder), "%s/gate", folder);
    OK(owlet_adapt_job_open(model, dataset, &options, NULL, NULL, &job, &error));
    OK(owlet_adapt_job_write_adapter(job, path, &error));
    owlet_adapt_job_free(job);

    EXPECT(INVALID, owlet_adapter_gate_open(NULL, NULL, &gate, &error));
    rule.min_samples = 1;
    EXPECT(INVALID, owlet_adapter_gate_open(gate_folder, &rule, &gate, &error));
    rule.min_samples = 2;
    rule.most_loss = 10.0;
    OK(owlet_adapter_gate_open(gate_folder, &rule, &gate, &error));
    EXPECT(OWLET_STATUS_BUSY, owlet_adapter_gate_open(gate_folder, &rule, &second, &error));
    EXPECT(OWLET_STATUS_NOT_FOUND, owlet_adapter_gate_activate(gate, &error));
    EXPECT(OWLET_STATUS_NOT_FOUND, owlet_adapter_gate_rollback(gate, &error));
    OK(owlet_adapter_gate_get_active(gate, &active, &error));
    CHECK(active == NULL);
    EXPECT(OWLET_STATUS_NOT_FOUND, owlet_adapter_gate_consider(gate, "/nowhere.gguf", model, held_out, NULL, &options, NULL,
                                                               NULL, NULL, &verdict, &error));
    EXPECT(OWLET_STATUS_CALLBACK, owlet_adapter_gate_consider(gate, path, model, held_out, NULL, &options, stop_it,
                                                              &flow, NULL, &verdict, &error));
    flow = OWLET_FLOW_STOP;
    EXPECT(OWLET_STATUS_CANCELLED, owlet_adapter_gate_consider(gate, path, model, held_out, NULL, &options, stop_it,
                                                               &flow, NULL, &verdict, &error));
    EXPECT(INVALID, owlet_adapter_gate_consider(gate, path, model, dataset, NULL, &options, NULL, NULL, NULL, &verdict,
                                                &error)); /* too few samples */
    judge.gate = gate;
    judge.worth = 0.1;
    reward.name = "rising, 1";
    reward.score = judge_it;
    reward.user_data = &judge;
    OK(owlet_adapter_gate_consider(gate, path, model, held_out, &reward, &options, NULL, NULL, NULL, &verdict, &error));
    OK(owlet_verdict_get_info(verdict, &info, &error));
    CHECK(info.is_accepted == 1 && info.n_reasons == 0 && info.n_samples == 2);
    CHECK(info.reward_after > info.reward_before && owlet_verdict_get_reason(verdict, 0) == NULL);
    owlet_verdict_free(verdict);
    OK(owlet_adapter_gate_activate(gate, &error));
    OK(owlet_adapter_gate_get_active(gate, &active, &error));
    CHECK(active != NULL && strstr(owlet_string_text(active), "gate") != NULL);
    owlet_string_free(active);

    /* The same again is no gain. */
    rule.least_gain = 0.5;
    owlet_adapter_gate_free(gate);
    OK(owlet_adapter_gate_open(gate_folder, &rule, &gate, &error));
    OK(owlet_adapter_gate_consider(gate, path, model, held_out, NULL, &options, NULL, NULL, NULL, &verdict, &error));
    OK(owlet_verdict_get_info(verdict, &info, &error));
    CHECK(info.is_accepted == 0 && info.n_reasons > 0 && owlet_verdict_get_reason(verdict, 0)[0] != '\0');
    owlet_verdict_free(verdict);
    OK(owlet_adapter_gate_rollback(gate, &error));
    OK(owlet_adapter_gate_get_active(gate, &active, &error));
    CHECK(active == NULL);
    owlet_adapter_gate_free(gate);
    EXPECT(INVALID, owlet_adapter_gate_activate(gate, &error));
    EXPECT(INVALID, owlet_verdict_get_info(verdict, &info, &error));
    owlet_adapter_gate_free(NULL);
    owlet_verdict_free(NULL);
    owlet_dataset_free(held_out);
}

static void *run(void *job)
{
    uint32_t status = (uint32_t)owlet_adapt_job_run((owlet_adapt_job *)job, NULL, NULL, NULL, NULL);
    CHECK(status == OWLET_STATUS_OK || status == OWLET_STATUS_BUSY);
    return NULL;
}

/* Two threads run it, a third one reads and frees it meanwhile. */
static void threads_share_a_job(void)
{
    owlet_adapt_job *job = NULL;
    owlet_adapt_options options = small();
    owlet_adapter *adapter = NULL;
    pthread_t threads[2];
    int i;

    OK(owlet_adapt_job_open(model, dataset, &options, NULL, NULL, &job, &error));
    for (i = 0; i < 2; i++) {
        CHECK(pthread_create(&threads[i], NULL, run, job) == 0);
    }
    OK(owlet_adapt_job_get_adapter(job, &adapter, &error));
    for (i = 0; i < 2; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    owlet_adapt_job_free(job);
    owlet_adapter_free(adapter);
}

int main(int argc, char **argv)
{
    owlet_model_options options = owlet_model_options_init();
    owlet_sample one = sample();

    CHECK(argc == 5);
    options.mmproj = argv[2];
    options.n_threads = 1;
    picture_path = argv[3];
    folder = argv[4];
    OK(owlet_model_load(argv[1], &options, NULL, &model, &error));
    OK(owlet_dataset_from_samples(&one, 1, &dataset, &error));
    samples_are_checked();
    jobs_are_opened_with_sense_only();
    callbacks_fail_pause_and_cancel();
    threads_share_a_job();
    a_gate_lets_through_what_is_better();
    owlet_dataset_free(dataset);
    owlet_model_free(model);
    puts("training ends as it should");
    return 0;
}
