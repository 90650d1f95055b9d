/*
 * Teaches the model to answer in few words: an adapter is trained by a reward that this program computes, asked on held-out
 * questions, and used at once in a session that is open already.
 *
 *     adapt MODEL.gguf DATA.jsonl HELD_OUT.jsonl FOLDER N_STEPS
 */
#include <owlet.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The reward: the right answer, and better in few words. It must give the same for the same, and may run on several threads. */
static int32_t score(void *user_data, const char *response, const owlet_sample_view *sample, owlet_reward_parts *parts)
{
    const double longest = *(const double *)user_data;
    const double length = (double)strlen(response);

    parts->accuracy = strstr(response, sample->answer) != NULL ? 0.5 : 0.0;
    if (length < longest) {
        parts->accuracy += 0.5 * (1.0 - length / longest);
    }
    return OWLET_FLOW_CONTINUE;
}

static int32_t on_progress(void *user_data, const owlet_progress *progress)
{
    (void)user_data;
    if (progress->kind == OWLET_PROGRESS_KIND_STEP_DONE) {
        printf("step %llu: reward %.3f, %.0f tokens\n", (unsigned long long)progress->n_steps, progress->metrics->reward,
               progress->metrics->length);
    }
    return OWLET_FLOW_CONTINUE;
}

static int fail(owlet_error *error)
{
    fprintf(stderr, "error (%s): %s\n", owlet_status_name(owlet_error_status(error)), owlet_error_text(error));
    owlet_error_free(error);
    return 1;
}

/* What the job makes of the model; in a function of its own, so that everything is freed in one place. */
static owlet_status train(owlet_adapt_job *job, const owlet_dataset *held_out, owlet_session *session,
                          const char *folder, owlet_error **error)
{
    owlet_evaluation *evaluation = NULL;
    owlet_adapter *adapter = NULL;
    owlet_evaluation_info info = owlet_evaluation_info_init();
    owlet_message question = owlet_message_init();
    owlet_turn *turn = NULL;
    char path[4096];
    owlet_status status;

    question.text = "What do you see?";
    snprintf(path, sizeof(path), "%s/adapter.gguf", folder);
    if ((status = owlet_adapt_job_run(job, on_progress, NULL, NULL, error)) == OWLET_STATUS_OK &&
        (status = owlet_adapt_job_evaluate(job, held_out, NULL, NULL, NULL, &evaluation, error)) == OWLET_STATUS_OK &&
        (status = owlet_evaluation_get_info(evaluation, &info, error)) == OWLET_STATUS_OK &&
        (status = owlet_adapt_job_write_adapter(job, path, error)) == OWLET_STATUS_OK &&
        (status = owlet_adapt_job_get_adapter(job, &adapter, error)) == OWLET_STATUS_OK) {
        const owlet_adapter *adapters[] = {adapter};
        printf("held out: reward %.3f (%.3f to %.3f)\n", info.reward.mean, info.reward.low, info.reward.high);
        status = owlet_session_set_adapters(session, adapters, NULL, 1, error);
        if (status == OWLET_STATUS_OK) {
            status = owlet_session_ask(session, &question, NULL, NULL, NULL, &turn, error);
        }
        if (status == OWLET_STATUS_OK) {
            printf("with the adapter: %s\n", owlet_turn_answer(turn));
        }
    }
    owlet_turn_free(turn);
    owlet_adapter_free(adapter);
    owlet_evaluation_free(evaluation);
    return status;
}

int main(int argc, char **argv)
{
    owlet_model *model = NULL;
    owlet_dataset *data = NULL, *held_out = NULL;
    owlet_session *session = NULL;
    owlet_adapt_job *job = NULL;
    owlet_error *error = NULL;
    double longest = 200.0;
    int failed = 0;

    if (argc != 6) {
        fprintf(stderr, "usage: %s MODEL.gguf DATA.jsonl HELD_OUT.jsonl FOLDER N_STEPS\n", argv[0]);
        return 2;
    }

    owlet_reward reward = owlet_reward_init();
    reward.name = "short answers, 1";
    reward.score = score;
    reward.user_data = &longest;
    owlet_adapt_options options = owlet_adapt_options_init();
    options.folder = argv[4];
    options.n_steps = strtoull(argv[5], NULL, 10);
    options.prompts_per_step = 1;
    options.group_size = 4;
    options.max_new_tokens = 16;
    options.max_prompt_tokens = 256;
    options.n_sequences = 4;
    options.rank = 4;
    options.n_threads = 1;
    owlet_answer_options answer_options = owlet_answer_options_init();
    answer_options.max_new_tokens = 16;
    owlet_session_options session_options = owlet_session_options_init();
    session_options.answer = &answer_options;
    session_options.n_ctx = 256;
    session_options.n_threads = 1;

    if (owlet_model_load(argv[1], NULL, NULL, &model, &error) ||
        owlet_dataset_open(argv[2], &data, &error) ||
        owlet_dataset_open(argv[3], &held_out, &error) ||
        owlet_session_open(model, &session_options, &session, &error) ||
        owlet_adapt_job_open(model, data, &options, &reward, NULL, &job, &error) ||
        train(job, held_out, session, argv[4], &error)) {
        failed = fail(error);
    }

    owlet_adapt_job_free(job);
    owlet_session_free(session);
    owlet_dataset_free(held_out);
    owlet_dataset_free(data);
    owlet_model_free(model);
    return failed;
}
