/*
 * Owlet: vision-language models on the device, and their adaptation.
 *
 * This file is made from the sources in bindings/c; `make header` makes it anew.
 *
 * RULES FOR ALL FUNCTIONS
 *
 * Results. A function that can fail returns an owlet_status, 0 for success. Its last argument, `error`, may be NULL; see
 * owlet_error. A function that makes an object writes it to `*out`, which is NULL after a failure. Other outputs are written
 * on success only. A panic inside the library is OWLET_STATUS_INTERNAL.
 *
 * Objects. Types without fields are objects: the library makes them, the caller frees each by the function of its name that
 * ends in _free, which takes NULL too. Objects keep shares of what they need, so any order of freeing is right. An object that
 * was freed already, or a pointer to something else, is OWLET_STATUS_INVALID_INPUT, as long as its address was not given to a
 * new object of the same type. Strings and arrays that belong to an object are gone with it.
 *
 * Threads. Every function may be called from any thread, and every object may be used by several threads; what that means for
 * an object that changes is written at its type. A call works on the thread that makes it, unless its documentation says
 * otherwise, and returns when it is done; owlet_cancel_token ends it early.
 *
 * Pointers. Strings are UTF-8 and NUL-terminated; paths are the bytes that the system takes. What a function is given is
 * read or copied during the call, unless its documentation says otherwise. NULL, a string that is not UTF-8, a number
 * that is none of an enum and a length beyond reason are errors, and nothing else about a pointer can be checked: memory
 * must be as large as a length says.
 *
 * Structs. A struct that begins with struct_size is made by the function of its name that ends in _init, or by zeroing it and
 * setting struct_size to its sizeof. Fields that are 0 or NULL mean the default. Later versions add fields at the end: a
 * program that was compiled with an older header runs with a newer library, and a newer struct is refused by an older library
 * with OWLET_STATUS_UNSUPPORTED. Enums are passed as numbers of 32 bits, and flags as 0 or 1.
 *
 * Callbacks. They get `user_data` first, unchanged. A callback must return: a C++ exception or a longjmp that leaves it ends
 * the process. It may call any function, but for the object that the call works with: see owlet_session, owlet_adapt_job.
 *
 * Signals and fork. No function is for signal handlers. A process that loaded a model must not use it after fork().
 */

#ifndef OWLET_H
#define OWLET_H


#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The version of this header; owlet_version() tells that of the library. */
#define OWLET_VERSION_MAJOR 0
#define OWLET_VERSION_MINOR 1
#define OWLET_VERSION_PATCH 0
#define OWLET_VERSION "0.1.0"
#define OWLET_VERSION_NUMBER (OWLET_VERSION_MAJOR * 10000 + OWLET_VERSION_MINOR * 100 + OWLET_VERSION_PATCH)

/* A result that must not be dropped. */
#if defined(__cplusplus) && __cplusplus >= 201703L
#define OWLET_NODISCARD [[nodiscard]]
#elif defined(__GNUC__) || defined(__clang__)
#define OWLET_NODISCARD __attribute__((warn_unused_result))
#elif defined(_MSC_VER)
#define OWLET_NODISCARD _Check_return_
#else
#define OWLET_NODISCARD
#endif

/** What a call came to. Numbers never change; later versions may have more of them. */
enum owlet_status
#ifdef __cplusplus
    : uint32_t
#endif
{
    /** It did what it should. */
    OWLET_STATUS_OK = 0,
    /** An argument is out of its documented range. */
    OWLET_STATUS_INVALID_INPUT = 100,
    /** Well formed, but something Owlet does not handle: an architecture, a tensor type, an option's value. */
    OWLET_STATUS_UNSUPPORTED = 101,
    /** Two things that must fit do not: projector and model, adapter and model, checkpoint and data set. */
    OWLET_STATUS_MISMATCH = 102,
    /** The tokens asked for do not fit the context. */
    OWLET_STATUS_CONTEXT_OVERFLOW = 103,
    /** Something exceeds a stated limit: pixels of an image, bytes of memory. */
    OWLET_STATUS_LIMIT = 104,
    /** A file or directory does not exist. */
    OWLET_STATUS_NOT_FOUND = 200,
    /** The operating system refused a read or a write. */
    OWLET_STATUS_IO = 201,
    /** A file is not what its format demands: truncated, lying lengths, not an image, malformed JSON. */
    OWLET_STATUS_INVALID_FILE = 202,
    /** Somebody else is using it: another process writes to the same folder, another call works on the same object. */
    OWLET_STATUS_BUSY = 203,
    /** A server was not reached, broke off, or refused. */
    OWLET_STATUS_NETWORK = 204,
    /** The caller cancelled the work. */
    OWLET_STATUS_CANCELLED = 300,
    /** A training whose numbers left their range, again and again. */
    OWLET_STATUS_DIVERGED = 301,
    /** An adapter that changes nothing: it was never trained, or its scale is too small to matter. */
    OWLET_STATUS_NO_EFFECT = 302,
    /** A function of the host application failed: a reward, a listener. */
    OWLET_STATUS_CALLBACK = 400,
    /** llama.cpp or ggml failed for a reason it did not tell. */
    OWLET_STATUS_BACKEND = 500,
    /** Owlet broke a rule of its own: please report it. */
    OWLET_STATUS_INTERNAL = 501,
};
#ifndef __cplusplus
typedef uint32_t owlet_status;
#endif

/**
 * What `thinking_budget` is for no thinking at all.
 */
#define OWLET_NO_THINKING -1

/**
 * What sort of device runs a graph.
 */
enum owlet_device_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Of a kind that this version does not know.
     */
    OWLET_DEVICE_KIND_OTHER = 0,
    /**
     * The processor.
     */
    OWLET_DEVICE_KIND_CPU = 1,
    /**
     * A graphics processor with memory of its own.
     */
    OWLET_DEVICE_KIND_GPU = 2,
    /**
     * A graphics processor that shares the machine's memory.
     */
    OWLET_DEVICE_KIND_INTEGRATED_GPU = 3,
    /**
     * An accelerator used together with the processor.
     */
    OWLET_DEVICE_KIND_ACCELERATOR = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum owlet_device_kind owlet_device_kind;
#else
typedef uint32_t owlet_device_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What becomes of pixels that are not opaque.
 */
enum owlet_alpha
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Colours are taken as they are stored, as Hugging Face's processors do.
     */
    OWLET_ALPHA_DROP = 0,
    /**
     * Laid over white: dark lettering on a transparent ground stays legible.
     */
    OWLET_ALPHA_OVER_WHITE = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum owlet_alpha owlet_alpha;
#else
typedef uint32_t owlet_alpha;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Order of the bytes of a pixel, 8 bits each.
 */
enum owlet_pixel_format
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * One byte of brightness.
     */
    OWLET_PIXEL_FORMAT_GRAY8 = 1,
    /**
     * Brightness and alpha.
     */
    OWLET_PIXEL_FORMAT_GRAY_ALPHA8 = 2,
    /**
     * Red, green, blue.
     */
    OWLET_PIXEL_FORMAT_RGB8 = 3,
    /**
     * Red, green, blue, alpha: Android's ARGB_8888, in memory.
     */
    OWLET_PIXEL_FORMAT_RGBA8 = 4,
    /**
     * Blue, green, red, alpha: Core Video's 32BGRA.
     */
    OWLET_PIXEL_FORMAT_BGRA8 = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum owlet_pixel_format owlet_pixel_format;
#else
typedef uint32_t owlet_pixel_format;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Who speaks.
 */
enum owlet_role
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The person.
     */
    OWLET_ROLE_USER = 0,
    /**
     * The model.
     */
    OWLET_ROLE_ASSISTANT = 1,
    /**
     * A tool that the model called.
     */
    OWLET_ROLE_TOOL = 2,
    /**
     * Instructions that hold for the whole conversation.
     */
    OWLET_ROLE_SYSTEM = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum owlet_role owlet_role;
#else
typedef uint32_t owlet_role;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Whether the model thinks before it answers, where its chat template knows a switch.
 */
enum owlet_thinking
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * As the template has it.
     */
    OWLET_THINKING_DEFAULT = 0,
    /**
     * It thinks; OWLET_STATUS_UNSUPPORTED where the template knows no switch.
     */
    OWLET_THINKING_ON = 1,
    /**
     * It does not; likewise.
     */
    OWLET_THINKING_OFF = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum owlet_thinking owlet_thinking;
#else
typedef uint32_t owlet_thinking;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a piece of a streamed answer is.
 */
enum owlet_event_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * What the model thinks.
     */
    OWLET_EVENT_KIND_THINKING = 0,
    /**
     * What it answers.
     */
    OWLET_EVENT_KIND_ANSWER = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum owlet_event_kind owlet_event_kind;
#else
typedef uint32_t owlet_event_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a callback returns.
 */
enum owlet_flow
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Go on.
     */
    OWLET_FLOW_CONTINUE = 0,
    /**
     * Enough: an answer ends here, and is kept. Of callbacks that tell of progress it cancels the work.
     */
    OWLET_FLOW_STOP = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum owlet_flow owlet_flow;
#else
typedef int32_t owlet_flow;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Precision of keys and values.
 */
enum owlet_kv_type
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * F16.
     */
    OWLET_KV_TYPE_DEFAULT = 0,
    /**
     * Full precision.
     */
    OWLET_KV_TYPE_F32 = 1,
    /**
     * Half the memory; logits move by 0.01 to 0.05.
     */
    OWLET_KV_TYPE_F16 = 2,
    /**
     * A quarter of the memory; needs fused attention and heads of a multiple of 32.
     */
    OWLET_KV_TYPE_Q8_0 = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum owlet_kv_type owlet_kv_type;
#else
typedef uint32_t owlet_kv_type;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Whether attention is computed in one fused operation.
 */
enum owlet_flash_attention
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Where the device has it.
     */
    OWLET_FLASH_ATTENTION_AUTO = 0,
    /**
     * Always.
     */
    OWLET_FLASH_ATTENTION_ON = 1,
    /**
     * Never: the most exact, and the most memory for long contexts.
     */
    OWLET_FLASH_ATTENTION_OFF = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum owlet_flash_attention owlet_flash_attention;
#else
typedef uint32_t owlet_flash_attention;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What becomes of a question that no longer fits the context.
 */
enum owlet_overflow
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * It is refused with OWLET_STATUS_CONTEXT_OVERFLOW, and the session stays as it is.
     */
    OWLET_OVERFLOW_REFUSE = 0,
    /**
     * The oldest turns are forgotten until it fits. The instructions stay.
     */
    OWLET_OVERFLOW_DROP_OLDEST_TURNS = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum owlet_overflow owlet_overflow;
#else
typedef uint32_t owlet_overflow;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Why an answer ended.
 */
enum owlet_stop_reason
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The model ended it.
     */
    OWLET_STOP_REASON_END_OF_ANSWER = 0,
    /**
     * It came to one of the stop texts.
     */
    OWLET_STOP_REASON_STOP_TEXT = 1,
    /**
     * It reached the number of tokens asked for.
     */
    OWLET_STOP_REASON_MAX_TOKENS = 2,
    /**
     * The context is full.
     */
    OWLET_STOP_REASON_CONTEXT_FULL = 3,
    /**
     * The constraint leaves no token that the model may say.
     */
    OWLET_STOP_REASON_DEAD_END = 4,
    /**
     * A callback ended it.
     */
    OWLET_STOP_REASON_CALLER = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum owlet_stop_reason owlet_stop_reason;
#else
typedef uint32_t owlet_stop_reason;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How grave a line of the log is.
 */
enum owlet_log_level
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Something failed.
     */
    OWLET_LOG_LEVEL_ERROR = 1,
    /**
     * Something that a person should know of.
     */
    OWLET_LOG_LEVEL_WARN = 2,
    /**
     * What is going on.
     */
    OWLET_LOG_LEVEL_INFO = 3,
    /**
     * Details for whoever looks for a fault, llama.cpp's own messages among them.
     */
    OWLET_LOG_LEVEL_DEBUG = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum owlet_log_level owlet_log_level;
#else
typedef uint32_t owlet_log_level;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Whether a job goes on from its folder.
 */
enum owlet_begin
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * From the newest checkpoint, or from the beginning where there is none: for apps, which are ended at any time.
     */
    OWLET_BEGIN_RESUME_IF_ANY = 0,
    /**
     * From the beginning; checkpoints of an earlier run are OWLET_STATUS_INVALID_INPUT, never overwritten.
     */
    OWLET_BEGIN_ANEW = 1,
    /**
     * From the newest checkpoint; without one it is OWLET_STATUS_NOT_FOUND.
     */
    OWLET_BEGIN_RESUME = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum owlet_begin owlet_begin;
#else
typedef uint32_t owlet_begin;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a job tells of.
 */
enum owlet_progress_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Answers are being written: `n_done` of `n_total`, with `n_tokens` tokens.
     */
    OWLET_PROGRESS_KIND_SAMPLING = 0,
    /**
     * Gradients are being computed: `n_done` of `n_total` questions.
     */
    OWLET_PROGRESS_KIND_LEARNING = 1,
    /**
     * A step is complete: `metrics` has its numbers, and `n_steps` is how many steps are done.
     */
    OWLET_PROGRESS_KIND_STEP_DONE = 2,
    /**
     * A checkpoint of `n_steps` steps is on the disk.
     */
    OWLET_PROGRESS_KIND_CHECKPOINT = 3,
    /**
     * Nothing was learned in `n_done` steps in a row: easier or harder questions, a higher temperature or larger groups may
     * help.
     */
    OWLET_PROGRESS_KIND_NOTHING_LEARNED = 4,
    /**
     * Gradients were not finite; the adapter stays as it was.
     */
    OWLET_PROGRESS_KIND_UPDATE_SKIPPED = 5,
    /**
     * The job rests until owlet_adapt_job_resume().
     */
    OWLET_PROGRESS_KIND_PAUSED = 6,
    /**
     * It goes on.
     */
    OWLET_PROGRESS_KIND_RESUMED = 7,
    /**
     * Held-out samples are being answered: `n_done` of `n_total`.
     */
    OWLET_PROGRESS_KIND_EVALUATING = 8,
    /**
     * Something that this version of the header does not know.
     */
    OWLET_PROGRESS_KIND_OTHER = 9,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum owlet_progress_kind owlet_progress_kind;
#else
typedef uint32_t owlet_progress_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a job is doing.
 */
enum owlet_job_state
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Nothing: nobody runs it.
     */
    OWLET_JOB_STATE_IDLE = 0,
    /**
     * It trains.
     */
    OWLET_JOB_STATE_RUNNING = 1,
    /**
     * It is run, and rests.
     */
    OWLET_JOB_STATE_PAUSED = 2,
    /**
     * The last step is done.
     */
    OWLET_JOB_STATE_DONE = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum owlet_job_state owlet_job_state;
#else
typedef uint32_t owlet_job_state;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A training run with a thread of its own.
 *
 * What it has done is kept in its folder, by checkpoints and whenever it is paused or cancelled: a job that is opened with
 * the same folder, options, data and reward goes on from there, to the same adapter as if it had never stopped.
 *
 * It may be used by several threads: one runs it, others pause it and use its adapter, which waits for the end of a slice
 * of work (docs/cancellation.md). Its own callbacks cannot use it, which is OWLET_STATUS_BUSY, but for
 * owlet_adapt_job_pause(), owlet_adapt_job_get_state() and owlet_adapt_job_free().
 */
typedef struct owlet_adapt_job owlet_adapt_job;

/**
 * A LoRA adapter, opened for one model. It never changes and may be used by several threads and sessions.
 */
typedef struct owlet_adapter owlet_adapter;

/**
 * The adapters of one purpose of an app, in a folder: one that is live, two before it, and a candidate. A candidate goes live
 * only if its answers to held-out samples are good enough beside those of what is live now.
 *
 * The folder is this process's own as long as the gate lives. Calls on a gate wait for each other; callbacks of such a
 * call cannot use it, which is OWLET_STATUS_BUSY.
 */
typedef struct owlet_adapter_gate owlet_adapter_gate;

/**
 * Sampled answers, in their order. Never changes; may be read by several threads.
 */
typedef struct owlet_answers owlet_answers;

/**
 * A wish to stop, given to calls that may take long. It may be cancelled by any thread while they run, and by the callbacks
 * of such a call. The call then returns OWLET_STATUS_CANCELLED, within the bounds of docs/cancellation.md, and leaves its
 * objects as they were before it. The wish stays: new work takes a new token.
 */
typedef struct owlet_cancel_token owlet_cancel_token;

/**
 * Samples, checked as they are read. Never changes; may be used by several threads and jobs.
 */
typedef struct owlet_dataset owlet_dataset;

/**
 * The devices of this build and machine, in order of preference. Never changes; may be read by several threads.
 */
typedef struct owlet_device_list owlet_device_list;

/**
 * Why a call failed.
 *
 * Functions that can fail take a `owlet_error **` as their last argument. Where it is not NULL, `*error` is NULL after a
 * success and a new error object after a failure, which the caller frees by owlet_error_free(). What it held before is
 * overwritten, not freed. Error objects are never changed and may be read by several threads.
 */
typedef struct owlet_error owlet_error;

/**
 * Answers to held-out samples. Never changes; may be read by several threads.
 */
typedef struct owlet_evaluation owlet_evaluation;

/**
 * What was said in a session at some time. Never changes; may be read by several threads.
 */
typedef struct owlet_history owlet_history;

/**
 * A decoded picture, upright. It never changes and may be used by several threads and sessions.
 */
typedef struct owlet_image owlet_image;

/**
 * A loaded model. It never changes, may be used by several threads and sessions at once, and stays in memory until its
 * handle and all that was made with it are freed.
 */
typedef struct owlet_model owlet_model;

/**
 * The memory of a session or a training, by part. Never changes; may be read by several threads.
 */
typedef struct owlet_plan owlet_plan;

/**
 * Scores of answers, in their order. Never changes; may be read by several threads.
 */
typedef struct owlet_scores owlet_scores;

/**
 * A conversation: questions about text and pictures, answered in turn over what was said before.
 *
 * It may be used by several threads: calls on a session, and on sessions that were forked from it, wait for each other.
 * A callback of such a call cannot use any of them, which is OWLET_STATUS_BUSY; it may free them, and cancel the call. A call
 * that fails or is cancelled leaves the session as it was before.
 */
typedef struct owlet_session owlet_session;

/**
 * A string that was made for the caller. It never changes and may be read by several threads.
 */
typedef struct owlet_string owlet_string;

/**
 * A question answered. Never changes; may be read by several threads.
 */
typedef struct owlet_turn owlet_turn;

/**
 * What a gate says of a candidate. Never changes; may be read by several threads.
 */
typedef struct owlet_verdict owlet_verdict;

/**
 * How an adapter is trained. 0 and NULL stand for the default of every field.
 */
typedef struct {
    /**
     * sizeof(owlet_adapt_options), set by the caller.
     */
    size_t struct_size;
    /**
     * Folder of the checkpoints and of metrics.jsonl, which is created; default NULL: nothing is kept.
     */
    const char *folder;
    /**
     * An adapter file to begin with; default NULL: a fresh adapter.
     */
    const char *start;
    /**
     * Published method: "g2rpo", "g2rpo_group", "grpo", "dr_grpo", "dapo", "gspo", "cispo" or "sapo"; default "g2rpo".
     */
    const char *method;
    /**
     * Layers that are adapted, of q, k, v, o, gate, up and down, with commas between; default all.
     */
    const char *targets;
    /**
     * What is written behind every question; default: think first, then answer, in tags. "" for nothing.
     */
    const char *suffix;
    /**
     * Steps of the run; default 100.
     */
    uint64_t n_steps;
    /**
     * Steps over which the learning rate rises; default 0.
     */
    uint64_t warmup_steps;
    /**
     * A checkpoint after as many steps; default 10.
     */
    uint64_t checkpoint_steps;
    /**
     * And after as many seconds, within steps too; default 60.
     */
    uint64_t checkpoint_seconds;
    /**
     * Most anonymous memory of the run in bytes; slower where it is short, or OWLET_STATUS_LIMIT. Default no limit.
     */
    uint64_t memory_budget;
    /**
     * Seed of everything that is random; default 0.
     */
    uint64_t seed;
    /**
     * Learning rate after the warm-up; default 1e-4.
     */
    double learning_rate;
    /**
     * Questions of a step; default 8.
     */
    size_t prompts_per_step;
    /**
     * Answers to each question, 2 to 256; default 8.
     */
    size_t group_size;
    /**
     * Updates of a step, each over an equal share of its questions; default 1.
     */
    size_t updates_per_step;
    /**
     * Longest answer in tokens; default 512.
     */
    size_t max_new_tokens;
    /**
     * Longest question in tokens, pictures included; default 1024.
     */
    size_t max_prompt_tokens;
    /**
     * Rank of the adapter, 1 to 256; default 16.
     */
    size_t rank;
    /**
     * Answers that a session writes at a time, 1 to 256; default 16. Memory grows with it, and so does the speed.
     */
    size_t n_sequences;
    /**
     * Sessions that sample side by side, at most `n_threads`; default 1. A small model is fastest with one a thread.
     */
    size_t n_sessions;
    /**
     * Threads, at most 512; default 0: one per core. The same number gives the same bits.
     */
    size_t n_threads;
    /**
     * Strength of the adapter; default 32.
     */
    float alpha;
    /**
     * Temperature of the sampled answers, above 0; default 1.
     */
    float temperature;
    /**
     * Not 0: the adapter acts from the beginning of the answer on (activated LoRA): long questions are computed once.
     */
    uint32_t is_activated;
    /**
     * Not 0: train on questions too whose answers are all right or all wrong.
     */
    uint32_t keep_all_groups;
    /**
     * An owlet_begin.
     */
    uint32_t begin;
} owlet_adapt_options;

/**
 * What a reward sees of a sample, which lives until it returns.
 */
typedef struct {
    /**
     * sizeof(owlet_sample_view) of the library: later versions may have more fields behind these.
     */
    size_t struct_size;
    /**
     * Its name.
     */
    const char *id;
    /**
     * The question.
     */
    const char *problem;
    /**
     * The truth.
     */
    const char *answer;
    /**
     * How Owlet's own rules would score it; names as in owlet_sample.
     */
    const char *problem_type;
    /**
     * Which ability it trains.
     */
    const char *task_type;
    /**
     * Options of a multiple choice.
     */
    const char *const *options;
    /**
     * Number of options.
     */
    size_t n_options;
} owlet_sample_view;

/**
 * The parts of an answer's reward. 0 to begin with.
 */
typedef struct {
    /**
     * sizeof(owlet_reward_parts) of the library: later versions may have more fields behind these.
     */
    size_t struct_size;
    /**
     * How right the answer is, 0 to 1. Questions whose answers are all equally right teach nothing.
     */
    double accuracy;
    /**
     * Whether the tags are as asked for, 0 to 1.
     */
    double format;
    /**
     * Whether the answer has the structure of its problem type, 0 to 0.5.
     */
    double structure;
} owlet_reward_parts;

/**
 * Writes to `*parts` what `response`, the whole text that the model wrote to `sample`, is worth. Called from threads of the
 * library, several at once too; it must be deterministic: a run that was stopped and resumed ends in the same adapter only
 * then. Returns an owlet_flow: after anything but OWLET_FLOW_CONTINUE, and after parts out of range, the call that runs the
 * job ends with OWLET_STATUS_CALLBACK; another call goes on and asks again.
 */
typedef int32_t (*owlet_reward_callback)(void *user_data,
                                         const char *response,
                                         const owlet_sample_view *sample,
                                         owlet_reward_parts *parts);

/**
 * Called once when the library will not use `user_data` any more, on whatever thread that happens. It must not call Owlet.
 */
typedef void (*owlet_release_callback)(void *user_data);

/**
 * A rule that scores answers.
 */
typedef struct {
    /**
     * sizeof(owlet_reward), set by the caller.
     */
    size_t struct_size;
    /**
     * The rule's name and version: a run goes on only with the rule that it began with. Copied.
     */
    const char *name;
    /**
     * The rule.
     */
    owlet_reward_callback score;
    /**
     * Given to `score`; usable from any thread until it is released.
     */
    void *user_data;
    /**
     * Called with `user_data` when the library is done with it, also after a failure; default NULL.
     */
    owlet_release_callback release;
} owlet_reward;

/**
 * The numbers of one training step. NaN stands for what only an answer that was learned from can tell, where there was none.
 */
typedef struct {
    /**
     * sizeof(owlet_step_metrics) of the library: later versions may have more fields behind these.
     */
    size_t struct_size;
    /**
     * From 0.
     */
    uint64_t step;
    /**
     * Times that the data was gone through before, from 0.
     */
    uint64_t epoch;
    /**
     * Questions that were learned from.
     */
    size_t n_groups;
    /**
     * Questions that were dropped because all answers were equally right or wrong.
     */
    size_t n_filtered;
    /**
     * Updates that were skipped because their gradients were not finite.
     */
    size_t n_skipped_updates;
    /**
     * Learning rate of this step.
     */
    double learning_rate;
    /**
     * Mean reward of all answers.
     */
    double reward;
    /**
     * Their mean accuracy, 0 to 1.
     */
    double accuracy;
    /**
     * Their mean format reward.
     */
    double format;
    /**
     * Their mean length in tokens.
     */
    double length;
    /**
     * Share of answers that were cut off.
     */
    double truncated;
    /**
     * Policy loss.
     */
    double loss;
    /**
     * Mean of -logprob of the sampled tokens in nats.
     */
    double neg_logprob;
    /**
     * Mean entropy of the token distributions in nats.
     */
    double entropy;
    /**
     * Mean difference between the training engine's and the sampler's log-probabilities.
     */
    double logprob_gap;
    /**
     * Norm of the gradients before clipping.
     */
    double grad_norm;
    /**
     * Wall clock of the step.
     */
    double seconds;
    /**
     * Sampled tokens a second over the whole step.
     */
    double tokens_per_second;
} owlet_step_metrics;

/**
 * What a job tells, until the callback returns.
 */
typedef struct {
    /**
     * sizeof(owlet_progress) of the library: later versions may have more fields behind these.
     */
    size_t struct_size;
    /**
     * The numbers of a step that is complete, else NULL.
     */
    const owlet_step_metrics *metrics;
    /**
     * Steps.
     */
    uint64_t n_steps;
    /**
     * What is done of `n_total`.
     */
    size_t n_done;
    /**
     * What there is to do.
     */
    size_t n_total;
    /**
     * Tokens written.
     */
    size_t n_tokens;
    /**
     * An owlet_progress_kind.
     */
    uint32_t kind;
} owlet_progress;

/**
 * Told what a job does, on its own thread, one call at a time, before the call that runs it returns. Returns an owlet_flow;
 * OWLET_FLOW_STOP ends that call with OWLET_STATUS_CANCELLED, unless it is done anyway, any other number with
 * OWLET_STATUS_CALLBACK. Both can be run again.
 */
typedef int32_t (*owlet_progress_callback)(void *user_data, const owlet_progress *progress);

/**
 * A picture of a sample: one of `path`, `data` and `image` is set, and the others are NULL.
 */
typedef struct {
    /**
     * sizeof(owlet_picture), set by the caller.
     */
    size_t struct_size;
    /**
     * A file, which is read whenever its sample is asked, and stays as it is meanwhile.
     */
    const char *path;
    /**
     * The bytes of a picture file, which are copied.
     */
    const uint8_t *data;
    /**
     * Bytes of `data`.
     */
    size_t n_bytes;
    /**
     * A decoded picture. Large ones are better given as files or their bytes: pixels take memory for the whole run.
     */
    const owlet_image *image;
} owlet_picture;

/**
 * One problem with its truth. All of it is copied.
 */
typedef struct {
    /**
     * sizeof(owlet_sample), set by the caller.
     */
    size_t struct_size;
    /**
     * Its name in reports; default NULL: its number.
     */
    const char *id;
    /**
     * The question, together with the options with one "<image>" for every picture.
     */
    const char *problem;
    /**
     * The truth.
     */
    const char *answer;
    /**
     * How it is scored: "multiple choice", "numerical", "regression", "OCR", "open-ended", "math" or "spatial grounding".
     */
    const char *problem_type;
    /**
     * Which ability it trains; reports are by it: "spatial_grounding", "spatial_reasoning", "general_vqa_science_stem",
     * "math_reasoning", "chart_figure_qa" or "ocr". Default NULL: "general_vqa_science_stem".
     */
    const char *task_type;
    /**
     * Options of a multiple choice, such as "A. cat"; default NULL.
     */
    const char *const *options;
    /**
     * Number of options.
     */
    size_t n_options;
    /**
     * Its pictures, in the order of the marks; default NULL.
     */
    const owlet_picture *pictures;
    /**
     * Number of pictures.
     */
    size_t n_pictures;
} owlet_sample;

/**
 * A mean and the ends of its 95 % interval.
 */
typedef struct {
    /**
     * The mean.
     */
    double mean;
    /**
     * Lower end.
     */
    double low;
    /**
     * Upper end.
     */
    double high;
} owlet_interval;

/**
 * Means over the answers.
 */
typedef struct {
    /**
     * sizeof(owlet_evaluation_info), set by the caller.
     */
    size_t struct_size;
    /**
     * Answers, for owlet_evaluation_get_answer().
     */
    size_t n_answers;
    /**
     * Accuracy, 0 to 1.
     */
    owlet_interval accuracy;
    /**
     * Reward.
     */
    owlet_interval reward;
    /**
     * Mean length in tokens.
     */
    double length;
} owlet_evaluation_info;

/**
 * An answer to a held-out sample. Strings belong to the evaluation.
 */
typedef struct {
    /**
     * sizeof(owlet_evaluated_answer), set by the caller.
     */
    size_t struct_size;
    /**
     * Id of the sample.
     */
    const char *id;
    /**
     * The whole text that the model wrote.
     */
    const char *text;
    /**
     * How right it is, 0 to 1.
     */
    double accuracy;
    /**
     * Its reward.
     */
    double reward;
    /**
     * Its tokens, the end token included.
     */
    size_t n_tokens;
    /**
     * 1 if it was cut off, else 0.
     */
    uint32_t is_truncated;
} owlet_evaluated_answer;

/**
 * What a candidate must come to, compared with what is live sample by sample. 0 stands for the default of every field.
 */
typedef struct {
    /**
     * sizeof(owlet_gate_rule), set by the caller.
     */
    size_t struct_size;
    /**
     * Fewest held-out samples, at least 2; default 30.
     */
    size_t min_samples;
    /**
     * Least mean change of the reward; default 0.
     */
    double least_gain;
    /**
     * What the reward may be lower by at the lower end of the 95 % interval of its change; default 0: it must have risen
     * beyond chance.
     */
    double most_loss;
    /**
     * What the mean reward of a task type by itself may be lower by, where that is beyond chance; default 0.1. For none at
     * all, a number such as 1e-9.
     */
    double most_task_loss;
} owlet_gate_rule;

/**
 * The numbers of a verdict.
 */
typedef struct {
    /**
     * sizeof(owlet_verdict_info), set by the caller.
     */
    size_t struct_size;
    /**
     * Held-out samples.
     */
    size_t n_samples;
    /**
     * Reasons against the candidate, for owlet_verdict_get_reason().
     */
    size_t n_reasons;
    /**
     * Mean reward of what is live, or of the base.
     */
    double reward_before;
    /**
     * Mean reward of the candidate.
     */
    double reward_after;
    /**
     * Its change by pairs.
     */
    owlet_interval reward_change;
    /**
     * Mean accuracy of what is live, or of the base.
     */
    double accuracy_before;
    /**
     * Mean accuracy of the candidate.
     */
    double accuracy_after;
    /**
     * Its change by pairs.
     */
    owlet_interval accuracy_change;
    /**
     * 1 if the candidate passed, else 0.
     */
    uint32_t is_accepted;
} owlet_verdict_info;

/**
 * What an adapter holds.
 */
typedef struct {
    /**
     * sizeof(owlet_adapter_info), set by the caller.
     */
    size_t struct_size;
    /**
     * The largest rank of its modules.
     */
    uint64_t rank;
    /**
     * Numbers in all its modules.
     */
    uint64_t n_params;
    /**
     * Weight matrices that it changes.
     */
    size_t n_modules;
    /**
     * Its strength: updates are multiplied by alpha / rank; 0 means that they are not.
     */
    float alpha;
    /**
     * 1 if it acts from its invocation in a prompt on (activated LoRA), 0 if on every token.
     */
    uint32_t is_activated;
} owlet_adapter_info;

/**
 * A device. Strings belong to the list that it came from.
 */
typedef struct {
    /**
     * sizeof(owlet_device_info), set by the caller.
     */
    size_t struct_size;
    /**
     * Short name: "CPU", "Metal", "Vulkan0". A model option takes it.
     */
    const char *name;
    /**
     * What the driver calls it.
     */
    const char *description;
    /**
     * Memory that the driver reports as free, in bytes; 0 where it does not tell.
     */
    uint64_t memory_free_bytes;
    /**
     * Memory in all, in bytes; for a processor that of the machine.
     */
    uint64_t memory_total_bytes;
    /**
     * An owlet_device_kind.
     */
    uint32_t kind;
} owlet_device_info;

/**
 * What one side said. All of it is read, and pictures are shared, during the call only.
 */
typedef struct {
    /**
     * sizeof(owlet_message), set by the caller.
     */
    size_t struct_size;
    /**
     * The text, UTF-8. Every "<image>" in the text of a user is replaced by the next picture; without any, the pictures
     * come first. Control tokens in it are only text.
     */
    const char *text;
    /**
     * The pictures, in order. NULL where there are none.
     */
    const owlet_image *const *images;
    /**
     * Number of pictures.
     */
    size_t n_images;
    /**
     * An owlet_role.
     */
    uint32_t role;
} owlet_message;

/**
 * How answers are written. 0 and NULL stand for the default of every field.
 */
typedef struct {
    /**
     * sizeof(owlet_answer_options), set by the caller.
     */
    size_t struct_size;
    /**
     * Most tokens of an answer, thinking included; default 1024.
     */
    size_t max_new_tokens;
    /**
     * Most tokens of thinking, after which it is closed by force and the answer follows; OWLET_NO_THINKING for none.
     * Default no limit.
     */
    int64_t thinking_budget;
    /**
     * A JSON Schema: the answer is JSON that is valid under it. Not together with `grammar`. Default NULL.
     */
    const char *json_schema;
    /**
     * A context-free grammar in the Lark dialect of llguidance: the answer is a text of it. Default NULL.
     */
    const char *grammar;
    /**
     * Texts that end an answer: it stops where the first of them that is complete begins. At most 64. Default NULL.
     */
    const char *const *stop;
    /**
     * Number of stop texts.
     */
    size_t n_stop;
    /**
     * Tokens never picked. Default NULL.
     */
    const int32_t *banned;
    /**
     * Number of banned tokens.
     */
    size_t n_banned;
    /**
     * Only as many of the most probable tokens; default 0: all.
     */
    size_t top_k;
    /**
     * Tokens of the answer that the three penalties look at; default 64.
     */
    size_t repeat_window;
    /**
     * Not 0: always the most probable token; `temperature` must be 0 then.
     */
    uint32_t greedy;
    /**
     * Divides the logits, at most 100; default 1. For 0, set `greedy`.
     */
    float temperature;
    /**
     * Only the most probable tokens that together have this probability; default 1: all.
     */
    float top_p;
    /**
     * Only tokens at least this probable relative to the most probable one; default 0: all.
     */
    float min_p;
    /**
     * Only tokens whose surprise is nearest to the entropy, of together this probability; default 1: all.
     */
    float typical_p;
    /**
     * Divides positive, multiplies negative logits of tokens that occurred; default 1: off.
     */
    float repeat_penalty;
    /**
     * Taken once from the logits of tokens that occurred; default 0: off.
     */
    float presence_penalty;
    /**
     * Taken from the logits of tokens as often as they occurred; default 0: off.
     */
    float frequency_penalty;
} owlet_answer_options;

/**
 * How answers are sampled. 0 and NULL stand for the default of every field.
 */
typedef struct {
    /**
     * sizeof(owlet_generate_options), set by the caller.
     */
    size_t struct_size;
    /**
     * How answers are written; default NULL.
     */
    const owlet_answer_options *answer;
    /**
     * What the model may call: a JSON list of tools; default NULL: none.
     */
    const char *tools;
    /**
     * Adapters that act; default NULL.
     */
    const owlet_adapter *const *adapters;
    /**
     * Their scales; default NULL: 1 for each.
     */
    const float *scales;
    /**
     * Number of adapters.
     */
    size_t n_adapters;
    /**
     * Answers wanted; default 1, at most 65536.
     */
    size_t n_answers;
    /**
     * Answers written at a time; default `n_answers`, at most 16. More is faster and takes more memory.
     */
    size_t n_parallel;
    /**
     * Threads, at most 512; default 0: one per core.
     */
    size_t n_threads;
    /**
     * Seed of the random numbers; default 0. Answers differ by their number.
     */
    uint64_t seed;
    /**
     * An owlet_thinking.
     */
    uint32_t thinking;
} owlet_generate_options;

/**
 * A piece of an answer, while it is written.
 */
typedef struct {
    /**
     * sizeof(owlet_event) of the library: later versions may have more fields behind these.
     */
    size_t struct_size;
    /**
     * The text, whole characters of UTF-8, `n_bytes` of them; it is not NUL-terminated, may hold NULs, and lives until the
     * callback returns.
     */
    const char *text;
    /**
     * Bytes of `text`.
     */
    size_t n_bytes;
    /**
     * Which of the answers it is of, from 0, where several are written at a time.
     */
    size_t answer;
    /**
     * An owlet_event_kind.
     */
    uint32_t kind;
} owlet_event;

/**
 * Told every piece of an answer, on the thread of the call, before it returns.
 *
 * Returns an owlet_flow. Any other number says that the callback failed: the call then ends with OWLET_STATUS_CALLBACK and
 * leaves its object as it was before.
 */
typedef int32_t (*owlet_event_callback)(void *user_data, const owlet_event *event);

/**
 * A sampled answer. Pointers belong to the answers.
 */
typedef struct {
    /**
     * sizeof(owlet_answer), set by the caller.
     */
    size_t struct_size;
    /**
     * What it says, without thinking and tags.
     */
    const char *text;
    /**
     * What the model thought before.
     */
    const char *thinking;
    /**
     * Its tokens, the end token included.
     */
    const int32_t *tokens;
    /**
     * Natural log-probability of each token, as it was sampled.
     */
    const float *logprobs;
    /**
     * Number of tokens.
     */
    size_t n_tokens;
    /**
     * Which of the stop texts ended it, from 0, where `stop_reason` is OWLET_STOP_REASON_STOP_TEXT.
     */
    size_t stop_text;
    /**
     * An owlet_stop_reason.
     */
    uint32_t stop_reason;
    /**
     * 1 if it is what json_schema or grammar ask for; 0 if it was cut off before, or if there was neither.
     */
    uint32_t meets_constraint;
} owlet_answer;

/**
 * Pixels that an app has decoded already: a camera frame, a bitmap.
 */
typedef struct {
    /**
     * sizeof(owlet_pixels), set by the caller.
     */
    size_t struct_size;
    /**
     * The rows, top first. Read during the call only.
     */
    const uint8_t *data;
    /**
     * Bytes of `data`. Those behind the last pixel of the last row may be missing.
     */
    size_t n_bytes;
    /**
     * Bytes from the start of a row to that of the next one; 0: rows follow each other without a gap.
     */
    size_t stride;
    /**
     * Pixels of a row.
     */
    uint32_t width;
    /**
     * Rows.
     */
    uint32_t height;
    /**
     * An owlet_pixel_format. There is no default.
     */
    uint32_t format;
    /**
     * How the picture must be turned to be seen upright: the value of EXIF's orientation tag, 1 to 8; 0 is 1: as it is.
     */
    uint32_t orientation;
    /**
     * An owlet_alpha.
     */
    uint32_t alpha;
    /**
     * Not 0: colours are multiplied by alpha already, as in the bitmaps of iOS and Android.
     */
    uint32_t is_premultiplied;
} owlet_pixels;

/**
 * Told a line of the log: an owlet_log_level, which part of Owlet says it, and the text; strings live until it returns.
 * Called from any thread, several at once too. It must not call Owlet: llama.cpp may log while it holds locks.
 */
typedef void (*owlet_log_callback)(void *user_data, uint32_t level, const char *target, const char *text);

/**
 * What a model is. Strings belong to the model.
 */
typedef struct {
    /**
     * sizeof(owlet_model_info), set by the caller.
     */
    size_t struct_size;
    /**
     * llama.cpp's name of the architecture, such as "qwen3vl".
     */
    const char *architecture;
    /**
     * The name in the file; "" where it has none.
     */
    const char *name;
    /**
     * llama.cpp's name of the quantization, such as "Q4_K - Medium".
     */
    const char *quantization;
    /**
     * Devices that compute its layers, such as "CPU" or "Vulkan0".
     */
    const char *device;
    /**
     * Why no graphics processor is among them, as a sentence; NULL where one is.
     */
    const char *no_gpu;
    /**
     * Weights of the language model.
     */
    uint64_t n_params;
    /**
     * Size of the model file in bytes.
     */
    uint64_t n_bytes;
    /**
     * Size of the image projector's file in bytes; 0 where there is none.
     */
    uint64_t mmproj_bytes;
    /**
     * Tokens in the vocabulary.
     */
    size_t n_vocab;
    /**
     * Width of the hidden state.
     */
    size_t n_embd;
    /**
     * Transformer layers.
     */
    size_t n_layer;
    /**
     * Context length that the model was trained with, in tokens.
     */
    size_t n_ctx_train;
    /**
     * Milliseconds that loading took.
     */
    double load_ms;
    /**
     * 1 if pictures can be shown to it, else 0.
     */
    uint32_t has_vision;
} owlet_model_info;

/**
 * Told how far loading is, from 0 to 1, on the thread of the call, before it returns. Returns an owlet_flow;
 * OWLET_FLOW_STOP ends loading with OWLET_STATUS_CANCELLED, any other number with OWLET_STATUS_CALLBACK.
 */
typedef int32_t (*owlet_load_callback)(void *user_data, float fraction);

/**
 * How a model is loaded. 0 and NULL stand for the default of every field.
 */
typedef struct {
    /**
     * sizeof(owlet_model_options), set by the caller.
     */
    size_t struct_size;
    /**
     * Path of the image projector; default NULL: the one beside the model (mmproj*.gguf), or none when there is none.
     */
    const char *mmproj;
    /**
     * "auto", "cpu", "gpu" (a graphics processor or an error), or the name of a device; default NULL: "auto".
     */
    const char *device;
    /**
     * Smallest number of pixels of a picture as the model sees it; default: the projector's number.
     */
    uint64_t min_pixels;
    /**
     * Largest number of pixels; default: the projector's number. Time and memory grow faster than the pixels.
     */
    uint64_t max_pixels;
    /**
     * Threads of the image encoder, at most 512; default 0: one per core.
     */
    size_t n_threads;
    /**
     * Layers kept on a graphics processor, where there is one; default 0: all. For none, set `device` to "cpu".
     */
    uint32_t gpu_layers;
    /**
     * Not 0: leave pictures alone even when a projector is there, which saves its memory.
     */
    uint32_t text_only;
    /**
     * Not 0: let llama.cpp copy weights into layouts that suit the processor: faster long prompts with some types, for a
     * second copy of the weights.
     */
    uint32_t repack;
    /**
     * Told how far loading is; default NULL.
     */
    owlet_load_callback on_progress;
    /**
     * Given to `on_progress`.
     */
    void *user_data;
} owlet_model_options;

/**
 * How a session is opened. 0 and NULL stand for the default of every field.
 */
typedef struct {
    /**
     * sizeof(owlet_session_options), set by the caller.
     */
    size_t struct_size;
    /**
     * Instructions before the first question; default NULL: none.
     */
    const char *system;
    /**
     * What the model may call: a JSON list of tools, as OpenAI's interface has them; default NULL: none.
     */
    const char *tools;
    /**
     * How answers are written; default NULL.
     */
    const owlet_answer_options *answer;
    /**
     * Most anonymous memory in bytes that model and session may take together; batch, precision, pictures and context are
     * reduced to meet it, or the session is refused with OWLET_STATUS_LIMIT. Weights are mapped and not counted. Default no
     * limit.
     */
    uint64_t memory_budget;
    /**
     * Seed of the random numbers. The same questions and seed give the same answers. Default 0.
     */
    uint64_t seed;
    /**
     * Tokens that each fork can hold, questions and answers together; default 2048 or what the model was trained with,
     * where that is less.
     */
    size_t n_ctx;
    /**
     * Forks that can be alive at a time beside the session; default 0, at most 255. Memory grows with it.
     */
    size_t n_forks;
    /**
     * Threads, at most 512; default 0: one per core. With more threads than idle cores the work crawls.
     */
    size_t n_threads;
    /**
     * Most tokens of a prompt computed at once; default 512.
     */
    size_t n_ubatch;
    /**
     * Places of the context kept free for an answer; default 256.
     */
    size_t answer_room;
    /**
     * Most tokens of each picture; default: the model's limit of pixels.
     */
    size_t max_image_tokens;
    /**
     * An owlet_kv_type.
     */
    uint32_t kv_type;
    /**
     * An owlet_flash_attention.
     */
    uint32_t flash_attention;
    /**
     * An owlet_overflow.
     */
    uint32_t overflow;
    /**
     * An owlet_thinking.
     */
    uint32_t thinking;
} owlet_session_options;

/**
 * The numbers of a plan.
 */
typedef struct {
    /**
     * sizeof(owlet_plan_info), set by the caller.
     */
    size_t struct_size;
    /**
     * The most anonymous memory at a time, in bytes: the sum of the parts.
     */
    uint64_t peak_bytes;
    /**
     * Bytes of weights that are mapped and not counted: the system takes their pages back when it needs them.
     */
    uint64_t mapped_bytes;
    /**
     * Parts, for owlet_plan_get_part().
     */
    size_t n_parts;
    /**
     * Tokens that a session holds, after what a budget made of it; 0 of a training.
     */
    size_t n_ctx;
    /**
     * Most tokens of a prompt computed at once, likewise.
     */
    size_t n_ubatch;
    /**
     * Tokens of the largest picture that it is for.
     */
    size_t image_tokens;
} owlet_plan_info;

/**
 * How answers are scored. 0 and NULL stand for the default of every field.
 */
typedef struct {
    /**
     * sizeof(owlet_score_options), set by the caller.
     */
    size_t struct_size;
    /**
     * Adapters that act; default NULL.
     */
    const owlet_adapter *const *adapters;
    /**
     * Their scales; default NULL: 1 for each.
     */
    const float *scales;
    /**
     * Number of adapters.
     */
    size_t n_adapters;
    /**
     * Threads, at most 512; default 0: one per core.
     */
    size_t n_threads;
    /**
     * Divides the logits, at most 100; default 1.
     */
    float temperature;
    /**
     * Not 0: answers are beginnings, and the token that ends one does not count.
     */
    uint32_t is_open_ended;
    /**
     * Not 0: control tokens share in the probability, as Hugging Face counts it; default: only tokens that may be sampled.
     */
    uint32_t whole_vocabulary;
} owlet_score_options;

/**
 * How probable an answer is.
 */
typedef struct {
    /**
     * sizeof(owlet_score), set by the caller.
     */
    size_t struct_size;
    /**
     * Natural log-probability of each of its tokens; belongs to the scores.
     */
    const float *logprobs;
    /**
     * Number of tokens.
     */
    size_t n_tokens;
    /**
     * Natural log-probability of the answer.
     */
    double sum;
    /**
     * The mean over its tokens, which does not prefer short answers.
     */
    double mean;
} owlet_score;

/**
 * A message of a history. Strings belong to the history.
 */
typedef struct {
    /**
     * sizeof(owlet_history_message), set by the caller.
     */
    size_t struct_size;
    /**
     * The text; of answers with their thinking and its tags. "<image>" stands for a picture.
     */
    const char *text;
    /**
     * Calls of tools behind it, as a JSON list of objects of `name` and `arguments`.
     */
    const char *calls;
    /**
     * Pictures.
     */
    size_t n_images;
    /**
     * An owlet_role.
     */
    uint32_t role;
} owlet_history_message;

/**
 * The numbers of a turn. Times are wall-clock milliseconds.
 */
typedef struct {
    /**
     * sizeof(owlet_turn_report), set by the caller.
     */
    size_t struct_size;
    /**
     * Tokens of the answer, thinking and the end token included.
     */
    size_t n_tokens;
    /**
     * Places of the prompt: instructions, history, question.
     */
    size_t n_prompt_tokens;
    /**
     * Of them, those that were computed; the session held the others.
     */
    size_t n_computed_tokens;
    /**
     * Messages that were forgotten to make room.
     */
    size_t n_dropped_messages;
    /**
     * Getting the question's pictures.
     */
    double picture_ms;
    /**
     * Computing the prompt.
     */
    double prefill_ms;
    /**
     * From the call to the first token.
     */
    double first_token_ms;
    /**
     * Computing the tokens of the answer.
     */
    double decode_ms;
    /**
     * The most physical memory that this process held so far, in bytes; 0 where the system does not tell.
     */
    uint64_t peak_memory_bytes;
    /**
     * Calls of tools in the answer that cannot be read.
     */
    size_t n_malformed_calls;
    /**
     * Which of the stop texts ended the answer, from 0, where `stop_reason` is OWLET_STOP_REASON_STOP_TEXT.
     */
    size_t stop_text;
    /**
     * An owlet_stop_reason.
     */
    uint32_t stop_reason;
    /**
     * 1 if the answer is what json_schema or grammar ask for; 0 if it was cut off before, or if there was neither.
     */
    uint32_t meets_constraint;
} owlet_turn_report;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Prepares a run over `dataset`, or goes on with that of the folder in `options` (NULL: the defaults). `reward` scores the
 * answers; NULL stands for Owlet's own rules for the problem types. `cancel` may be NULL. The job keeps shares of model and
 * data set. The caller frees `*out` by owlet_adapt_job_free(). May be called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_adapt_job_open(const owlet_model *model,
                                  const owlet_dataset *dataset,
                                  const owlet_adapt_options *options,
                                  const owlet_reward *reward,
                                  const owlet_cancel_token *cancel,
                                  owlet_adapt_job **out,
                                  owlet_error **error);

/**
 * Trains to the last step, and returns then. `on_progress`, which may be NULL, is told what happens, on the job's thread.
 * `cancel` may be NULL. After OWLET_STATUS_CANCELLED, a callback that failed or a full disk, another call goes on from there;
 * with a folder, a later process too. OWLET_STATUS_BUSY while another thread runs it.
 */
OWLET_NODISCARD
owlet_status owlet_adapt_job_run(owlet_adapt_job *job,
                                 owlet_progress_callback on_progress,
                                 void *user_data,
                                 const owlet_cancel_token *cancel,
                                 owlet_error **error);

/**
 * Has a running job rest from the end of the running slice of work on, after a checkpoint; the call that runs it does not
 * return. A job that nobody runs rests as soon as it is run. May be called from any thread, and from the job's callbacks.
 */
OWLET_NODISCARD
owlet_status owlet_adapt_job_pause(owlet_adapt_job *job,
                                   owlet_error **error);

/**
 * Has a job that rests go on. May be called from any thread, and from the job's callbacks.
 */
OWLET_NODISCARD owlet_status owlet_adapt_job_resume(owlet_adapt_job *job, owlet_error **error);

/**
 * What a job is doing: an owlet_job_state; OWLET_JOB_STATE_IDLE for NULL. May be called from any thread, and from the job's
 * callbacks.
 */
OWLET_NODISCARD
uint32_t owlet_adapt_job_get_state(const owlet_adapt_job *job);

/**
 * Counts the steps that are done, those of earlier processes included. May be called from any thread.
 */
OWLET_NODISCARD owlet_status owlet_adapt_job_count_steps(owlet_adapt_job *job, uint64_t *out, owlet_error **error);

/**
 * Writes the adapter as it is after the last complete step to `path`, a GGUF file that llama.cpp loads; an older file is
 * replaced only when the new one is complete. May be called from any thread, also while the job runs.
 */
OWLET_NODISCARD
owlet_status owlet_adapt_job_write_adapter(owlet_adapt_job *job,
                                           const char *path,
                                           owlet_error **error);

/**
 * Gives the adapter as it is after the last complete step, without a file, for owlet_session_set_adapters(). The caller frees
 * `*out` by owlet_adapter_free(). May be called from any thread, also while the job runs.
 */
OWLET_NODISCARD
owlet_status owlet_adapt_job_get_adapter(owlet_adapt_job *job,
                                         owlet_adapter **out,
                                         owlet_error **error);

/**
 * Asks the samples of `dataset`, which should be held-out ones, greedily with the adapter as it is after the last complete
 * step, and scores the answers by the job's reward. `on_progress`, which may be NULL, is told how far it is, on the job's
 * thread. `cancel` may be NULL. The caller frees `*out` by owlet_evaluation_free(). May be called from any thread; it waits
 * for a run under way to rest or to end.
 */
OWLET_NODISCARD
owlet_status owlet_adapt_job_evaluate(owlet_adapt_job *job,
                                      const owlet_dataset *dataset,
                                      owlet_progress_callback on_progress,
                                      void *user_data,
                                      const owlet_cancel_token *cancel,
                                      owlet_evaluation **out,
                                      owlet_error **error);

/**
 * Frees a job. NULL is ignored. A run under way goes on to its end: cancel it before. Otherwise its thread ends, for which
 * it is waited a few seconds at most. May be called from any thread.
 */
void owlet_adapt_job_free(owlet_adapt_job *job);

/**
 * Reads a .jsonl file (one object a line) or a .json file (an array of objects) with the fields of owlet_sample, `images`
 * (paths beside the file) in place of pictures. The caller frees `*out` by owlet_dataset_free(). May be called from any
 * thread.
 */
OWLET_NODISCARD
owlet_status owlet_dataset_open(const char *path,
                                owlet_dataset **out,
                                owlet_error **error);

/**
 * Makes a data set of `n_samples` samples, which are copied. The caller frees `*out` by owlet_dataset_free(). May be called
 * from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_dataset_from_samples(const owlet_sample *samples,
                                        size_t n_samples,
                                        owlet_dataset **out,
                                        owlet_error **error);

/**
 * How many samples there are; 0 for NULL.
 */
OWLET_NODISCARD size_t owlet_dataset_length(const owlet_dataset *dataset);

/**
 * Frees a data set's handle. NULL is ignored. Jobs that were given it keep it.
 */
void owlet_dataset_free(owlet_dataset *dataset);

/**
 * Tells the means of an evaluation in `*out`, whose `struct_size` the caller sets.
 */
OWLET_NODISCARD
owlet_status owlet_evaluation_get_info(const owlet_evaluation *evaluation,
                                       owlet_evaluation_info *out,
                                       owlet_error **error);

/**
 * Tells of answer `index`, from 0, in the order of the samples, in `*out`, whose `struct_size` the caller sets.
 * OWLET_STATUS_INVALID_INPUT beyond the last one.
 */
OWLET_NODISCARD
owlet_status owlet_evaluation_get_answer(const owlet_evaluation *evaluation,
                                         size_t index,
                                         owlet_evaluated_answer *out,
                                         owlet_error **error);

/**
 * Frees an evaluation and its strings. NULL is ignored.
 */
void owlet_evaluation_free(owlet_evaluation *evaluation);

/**
 * Opens the gate in `folder`, which is created. `rule` may be NULL. A live adapter whose file is damaged gives way to the one
 * before. OWLET_STATUS_BUSY if another process has the folder. The caller frees `*out` by owlet_adapter_gate_free(). May be
 * called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_adapter_gate_open(const char *folder,
                                     const owlet_gate_rule *rule,
                                     owlet_adapter_gate **out,
                                     owlet_error **error);

/**
 * Asks the adapter in the file `candidate`, and what is live now, the samples of `held_out`, which neither was trained on, and
 * compares their rewards. One that passes is copied into the folder and waits for owlet_adapter_gate_activate(), over a
 * restart too. `reward` (NULL: Owlet's own rules) and `options` (NULL: the defaults) should be those of the training.
 * `on_progress`, `cancel` and `options` may be NULL. A refused candidate is no failure: the verdict says so. The caller frees
 * `*out` by owlet_verdict_free(). May be called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_adapter_gate_consider(owlet_adapter_gate *gate,
                                         const char *candidate,
                                         const owlet_model *model,
                                         const owlet_dataset *held_out,
                                         const owlet_reward *reward,
                                         const owlet_adapt_options *options,
                                         owlet_progress_callback on_progress,
                                         void *user_data,
                                         const owlet_cancel_token *cancel,
                                         owlet_verdict **out,
                                         owlet_error **error);

/**
 * Has the candidate that passed go live, all at once; what was live before is kept. OWLET_STATUS_NOT_FOUND where none waits.
 * May be called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_adapter_gate_activate(owlet_adapter_gate *gate,
                                         owlet_error **error);

/**
 * Has the adapter before go live again, or the base where there is none. The one that was live is forgotten.
 * OWLET_STATUS_NOT_FOUND where the base is live. May be called from any thread.
 */
OWLET_NODISCARD owlet_status owlet_adapter_gate_rollback(owlet_adapter_gate *gate, owlet_error **error);

/**
 * Gives the path of the adapter that is live, for owlet_adapter_open(); NULL where the base is. The caller frees `*out` by
 * owlet_string_free(). May be called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_adapter_gate_get_active(owlet_adapter_gate *gate,
                                           owlet_string **out,
                                           owlet_error **error);

/**
 * Frees a gate. NULL is ignored. What is in its folder stays. May be called from any thread.
 */
void owlet_adapter_gate_free(owlet_adapter_gate *gate);

/**
 * Tells the numbers of a verdict in `*out`, whose `struct_size` the caller sets.
 */
OWLET_NODISCARD
owlet_status owlet_verdict_get_info(const owlet_verdict *verdict,
                                    owlet_verdict_info *out,
                                    owlet_error **error);

/**
 * Reason `index`, from 0, against a candidate, as a sentence; NULL beyond the last one. The string belongs to the verdict and
 * lives as long.
 */
OWLET_NODISCARD
const char *owlet_verdict_get_reason(const owlet_verdict *verdict,
                                     size_t index);

/**
 * Frees a verdict and its strings. NULL is ignored.
 */
void owlet_verdict_free(owlet_verdict *verdict);

/**
 * Opens the adapter file at `path` for `model`, and checks that it fits. The caller frees `*out` by owlet_adapter_free().
 * May be called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_adapter_open(const owlet_model *model,
                                const char *path,
                                owlet_adapter **out,
                                owlet_error **error);

/**
 * Opens the `n_bytes` bytes of an adapter file, which are copied; as owlet_adapter_open().
 */
OWLET_NODISCARD
owlet_status owlet_adapter_from_bytes(const owlet_model *model,
                                      const uint8_t *data,
                                      size_t n_bytes,
                                      owlet_adapter **out,
                                      owlet_error **error);

/**
 * Tells what `adapter` holds in `*out`, whose `struct_size` the caller sets. May be called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_adapter_get_info(const owlet_adapter *adapter,
                                    owlet_adapter_info *out,
                                    owlet_error **error);

/**
 * Computes a short question with and without `adapter` at `scale`, and gives the largest difference between the logits in
 * `*out`, unless that is NULL. OWLET_STATUS_NO_EFFECT where there is none. `n_threads` of 0 is one per core. May be called
 * from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_adapter_check_effect(const owlet_adapter *adapter,
                                        float scale,
                                        size_t n_threads,
                                        float *out,
                                        owlet_error **error);

/**
 * Frees an adapter's handle. NULL is ignored. Sessions that use it keep it.
 */
void owlet_adapter_free(owlet_adapter *adapter);

/**
 * A token that is not cancelled. The caller frees it by owlet_cancel_token_free(). NULL only if the library is broken.
 * May be called from any thread.
 */
OWLET_NODISCARD owlet_cancel_token *owlet_cancel_token_new(void);

/**
 * A token that cancels itself so many milliseconds from now, for "at most ten seconds". As owlet_cancel_token_new().
 */
OWLET_NODISCARD owlet_cancel_token *owlet_cancel_token_after_ms(uint64_t milliseconds);

/**
 * Asks all work that was given the token to stop; does not wait for it. NULL is ignored. May be called from any thread, and
 * from callbacks. It takes a lock for a moment, so it is nothing for signal handlers.
 */
void owlet_cancel_token_cancel(owlet_cancel_token *token);

/**
 * Whether the token was cancelled or its time is up; false for NULL. May be called from any thread.
 */
OWLET_NODISCARD bool owlet_cancel_token_is_cancelled(const owlet_cancel_token *token);

/**
 * Frees a token. NULL is ignored. Work that was given it goes on, and is not cancelled by that.
 */
void owlet_cancel_token_free(owlet_cancel_token *token);

/**
 * Lists the devices. The caller frees `*out` by owlet_device_list_free(). May be called from any thread.
 */
OWLET_NODISCARD owlet_status owlet_device_list_new(owlet_device_list **out, owlet_error **error);

/**
 * How many devices there are; 0 for NULL.
 */
OWLET_NODISCARD size_t owlet_device_list_length(const owlet_device_list *list);

/**
 * Tells of device `index`, from 0, in `*out`, whose strings live as long as the list.
 * OWLET_STATUS_INVALID_INPUT beyond the last one.
 */
OWLET_NODISCARD
owlet_status owlet_device_list_get(const owlet_device_list *list,
                                   size_t index,
                                   owlet_device_info *out,
                                   owlet_error **error);

/**
 * Frees a list and its strings. NULL is ignored.
 */
void owlet_device_list_free(owlet_device_list *list);

/**
 * Why a model without special wishes would not use a graphics processor on this machine, as a sentence; NULL where it
 * would. The caller frees `*out` by owlet_string_free(). May be called from any thread.
 */
OWLET_NODISCARD owlet_status owlet_why_no_gpu(owlet_string **out, owlet_error **error);

/**
 * The name of a status in lower case, such as "not_found"; "ok" for OWLET_STATUS_OK, "unknown" for numbers that stand for
 * nothing. The string is static. May be called from any thread.
 */
OWLET_NODISCARD
const char *owlet_status_name(owlet_status status);

/**
 * The status that the failed call returned; OWLET_STATUS_OK for NULL.
 */
OWLET_NODISCARD owlet_status owlet_error_status(const owlet_error *error);

/**
 * The whole message: what failed, where, what was found, what was needed, and the causes underneath. For people and logs;
 * it never holds prompts, pictures or answers. The string belongs to the error and lives as long; "" for NULL.
 */
OWLET_NODISCARD
const char *owlet_error_text(const owlet_error *error);

/**
 * Where it failed: a path, `path:line`, a tensor, an option; NULL where there is no such place, and for NULL. The string
 * belongs to the error and lives as long.
 */
OWLET_NODISCARD
const char *owlet_error_place(const owlet_error *error);

/**
 * What was found in that place; NULL where it is not told, and for NULL. The string belongs to the error and lives as long.
 */
OWLET_NODISCARD
const char *owlet_error_got(const owlet_error *error);

/**
 * What would have been accepted; NULL where it is not told, and for NULL. The string belongs to the error and lives as long.
 */
OWLET_NODISCARD
const char *owlet_error_needed(const owlet_error *error);

/**
 * Frees an error object and its strings. NULL is ignored.
 */
void owlet_error_free(owlet_error *error);

/**
 * Samples answers to `messages`, the last of which asks. Pictures and prompt are computed once for all of them. `on_event`,
 * which may be NULL, is told all answers as they are written, on this thread; OWLET_FLOW_STOP ends the answer that it was
 * told of. `options` and `cancel` may be NULL. The caller frees `*out` by owlet_answers_free(). May be called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_model_generate(const owlet_model *model,
                                  const owlet_message *messages,
                                  size_t n_messages,
                                  const owlet_generate_options *options,
                                  owlet_event_callback on_event,
                                  void *user_data,
                                  const owlet_cancel_token *cancel,
                                  owlet_answers **out,
                                  owlet_error **error);

/**
 * How many answers there are; 0 for NULL.
 */
OWLET_NODISCARD size_t owlet_answers_length(const owlet_answers *answers);

/**
 * Tells of answer `index`, from 0, in `*out`, whose `struct_size` the caller sets.
 * OWLET_STATUS_INVALID_INPUT beyond the last one.
 */
OWLET_NODISCARD
owlet_status owlet_answers_get(const owlet_answers *answers,
                               size_t index,
                               owlet_answer *out,
                               owlet_error **error);

/**
 * Frees answers and their strings. NULL is ignored.
 */
void owlet_answers_free(owlet_answers *answers);

/**
 * Reads a PNG, JPEG, WebP, GIF (first frame) or BMP file; the format is told from the content, EXIF's orientation is
 * applied, at most 64 megapixels are decoded. `alpha` is an owlet_alpha. `cancel` may be NULL. The caller frees `*out` by
 * owlet_image_free(). May be called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_image_open(const char *path,
                              uint32_t alpha,
                              const owlet_cancel_token *cancel,
                              owlet_image **out,
                              owlet_error **error);

/**
 * Decodes the `n_bytes` bytes of a picture file; as owlet_image_open(). The bytes are read during the call only.
 */
OWLET_NODISCARD
owlet_status owlet_image_from_bytes(const uint8_t *data,
                                    size_t n_bytes,
                                    uint32_t alpha,
                                    const owlet_cancel_token *cancel,
                                    owlet_image **out,
                                    owlet_error **error);

/**
 * Copies decoded pixels and turns them upright. The caller frees `*out` by owlet_image_free(). May be called from any
 * thread.
 */
OWLET_NODISCARD
owlet_status owlet_image_from_pixels(const owlet_pixels *pixels,
                                     owlet_image **out,
                                     owlet_error **error);

/**
 * Pixels of a row, upright; 0 for NULL.
 */
OWLET_NODISCARD uint32_t owlet_image_width(const owlet_image *image);

/**
 * Rows, upright; 0 for NULL.
 */
OWLET_NODISCARD uint32_t owlet_image_height(const owlet_image *image);

/**
 * Frees a picture. NULL is ignored. What a session or a data set was given of it stays with them.
 */
void owlet_image_free(owlet_image *image);

/**
 * Hands what Owlet and llama.cpp log from now on, up to `level` (an owlet_log_level), to `callback`, in place of the one
 * before; NULL for nobody. One for the whole process. Prompts, pictures and answers are never logged.
 *
 * `user_data` must be usable from any thread until `release`, which may be NULL, is called with it: after another callback
 * took its place and the last line under way was told. After a failure `release` is called too. May be called from any
 * thread, but not from callbacks of the log.
 */
OWLET_NODISCARD
owlet_status owlet_log_set_callback(uint32_t level,
                                    owlet_log_callback callback,
                                    void *user_data,
                                    owlet_release_callback release,
                                    owlet_error **error);

/**
 * Tells what `model` is in `*out`, whose `struct_size` the caller sets; strings in it live as long as the model's handle.
 * May be called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_model_get_info(const owlet_model *model,
                                  owlet_model_info *out,
                                  owlet_error **error);

/**
 * Counts the places in the context that a user's turn of `text` with `n_images` pictures takes, the chat template's own
 * tokens included. No picture is encoded. `images` may be NULL where there are none. May be called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_model_count_tokens(const owlet_model *model,
                                      const char *text,
                                      const owlet_image *const *images,
                                      size_t n_images,
                                      size_t *out,
                                      owlet_error **error);

/**
 * Maps a box (left, top, right, bottom) from the numbers that `model` writes about `image` to pixels of the upright picture,
 * clamped to it. `corners` and `out` are four numbers each, and may be the same. `image` is the picture as it was shown, under
 * the model's own limits of pixels. May be called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_model_box_to_pixels(const owlet_model *model,
                                       const owlet_image *image,
                                       const double *corners,
                                       double *out,
                                       owlet_error **error);

/**
 * The reverse of owlet_model_box_to_pixels(): what the model would write for a box in pixels. Models write whole numbers:
 * round them.
 */
OWLET_NODISCARD
owlet_status owlet_model_box_from_pixels(const owlet_model *model,
                                         const owlet_image *image,
                                         const double *corners,
                                         double *out,
                                         owlet_error **error);

/**
 * Finds the calls of tools in `answer`, as the model's chat template teaches it to write them: `*out` is a JSON object of
 * `text` (what stands before the first call), `calls` (objects of `name` and `arguments`) and `malformed` (objects of `text`
 * and `problem`). Ask only where tools were given. Turns of a session have their calls already. The caller frees `*out` by
 * owlet_string_free(). May be called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_model_find_tool_calls(const owlet_model *model,
                                         const char *answer,
                                         owlet_string **out,
                                         owlet_error **error);

/**
 * Frees a model's handle. NULL is ignored. Sessions and adapters made with it go on; the memory is given back with the last
 * of them.
 */
void owlet_model_free(owlet_model *model);

/**
 * Loads the model at `path` and its image projector; returns when it is loaded. `options` and `cancel` may be NULL. Files are
 * checked before llama.cpp sees them, so a damaged one is an error. The caller frees `*out` by owlet_model_free(). May be
 * called from any thread, for several models at once.
 */
OWLET_NODISCARD
owlet_status owlet_model_load(const char *path,
                              const owlet_model_options *options,
                              const owlet_cancel_token *cancel,
                              owlet_model **out,
                              owlet_error **error);

/**
 * Plans the memory of a session with `options` (NULL: the defaults) over the model at `path`, with the image projector at
 * `mmproj` (NULL: without pictures), from the headers of both files. Where `options` have a memory_budget, the plan that fits
 * it, or OWLET_STATUS_LIMIT with the least that would do. The caller frees `*out` by owlet_plan_free(). May be called from
 * any thread.
 */
OWLET_NODISCARD
owlet_status owlet_plan_for_session(const char *path,
                                    const char *mmproj,
                                    const owlet_session_options *options,
                                    owlet_plan **out,
                                    owlet_error **error);

/**
 * Plans the memory of a training with `options` (NULL: the defaults); as owlet_plan_for_session().
 */
OWLET_NODISCARD
owlet_status owlet_plan_for_adaptation(const char *path,
                                       const char *mmproj,
                                       const owlet_adapt_options *options,
                                       owlet_plan **out,
                                       owlet_error **error);

/**
 * Tells the numbers of a plan in `*out`, whose `struct_size` the caller sets.
 */
OWLET_NODISCARD owlet_status owlet_plan_get_info(const owlet_plan *plan, owlet_plan_info *out, owlet_error **error);

/**
 * Gives part `index`, from 0: what a person calls it, and its bytes. The string belongs to the plan and lives as long.
 * OWLET_STATUS_INVALID_INPUT beyond the last one.
 */
OWLET_NODISCARD
owlet_status owlet_plan_get_part(const owlet_plan *plan,
                                 size_t index,
                                 const char **name,
                                 uint64_t *n_bytes,
                                 owlet_error **error);

/**
 * Frees a plan and its strings. NULL is ignored.
 */
void owlet_plan_free(owlet_plan *plan);

/**
 * Tells how probable each of `n_answers` answers is after `messages`, the last of which asks. Pictures and prompt are computed
 * once. `options` and `cancel` may be NULL. The caller frees `*out` by owlet_scores_free(). May be called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_model_score(const owlet_model *model,
                               const owlet_message *messages,
                               size_t n_messages,
                               const char *const *answers,
                               size_t n_answers,
                               const owlet_score_options *options,
                               const owlet_cancel_token *cancel,
                               owlet_scores **out,
                               owlet_error **error);

/**
 * How many scores there are; 0 for NULL.
 */
OWLET_NODISCARD size_t owlet_scores_length(const owlet_scores *scores);

/**
 * Tells the score of answer `index`, from 0, in `*out`, whose `struct_size` the caller sets.
 * OWLET_STATUS_INVALID_INPUT beyond the last one.
 */
OWLET_NODISCARD
owlet_status owlet_scores_get(const owlet_scores *scores,
                              size_t index,
                              owlet_score *out,
                              owlet_error **error);

/**
 * Frees scores. NULL is ignored.
 */
void owlet_scores_free(owlet_scores *scores);

/**
 * Opens a session over `model`. `options` may be NULL. The caller frees `*out` by owlet_session_free(). May be called from
 * any thread.
 */
OWLET_NODISCARD
owlet_status owlet_session_open(const owlet_model *model,
                                const owlet_session_options *options,
                                owlet_session **out,
                                owlet_error **error);

/**
 * Asks `question` and returns when it is answered. `on_event`, which may be NULL, is told thinking and answer piece by
 * piece, on this thread. `cancel` may be NULL. `out` may be NULL; otherwise the caller frees `*out` by owlet_turn_free().
 *
 * Question and answer become part of the session. May be called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_session_ask(owlet_session *session,
                               const owlet_message *question,
                               owlet_event_callback on_event,
                               void *user_data,
                               const owlet_cancel_token *cancel,
                               owlet_turn **out,
                               owlet_error **error);

/**
 * Adds `message` to what was said, without asking anything: a history that the app kept elsewhere, or an example. It is
 * computed with the next question. May be called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_session_push(owlet_session *session,
                                const owlet_message *message,
                                owlet_error **error);

/**
 * Puts `n` adapters in place of those before; their updates are added up, each times its scale. `scales` may be NULL: 1 for
 * each. With `n` of 0 the base model answers. What was said stays; what other adapters computed of it is computed again by the
 * next question. The session keeps shares of the adapters. May be called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_session_set_adapters(owlet_session *session,
                                        const owlet_adapter *const *adapters,
                                        const float *scales,
                                        size_t n,
                                        owlet_error **error);

/**
 * Makes a second session that goes on from here, in the same memory: what is computed is copied, not computed again. The two
 * take turns. OWLET_STATUS_LIMIT when all `n_forks` of the options are taken. The caller frees `*out` by
 * owlet_session_free(). May be called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_session_fork(owlet_session *session,
                                owlet_session **out,
                                owlet_error **error);

/**
 * Counts the places of the context that are computed. May be called from any thread.
 */
OWLET_NODISCARD owlet_status owlet_session_count_tokens(owlet_session *session, size_t *out, owlet_error **error);

/**
 * Frees a session. NULL is ignored. A call that works with it, also one whose callback this is, ends as if it were not freed,
 * and the session goes then. May be called from any thread; it waits for calls on forks.
 */
void owlet_session_free(owlet_session *session);

/**
 * Writes the whole session to `path`: what was said, pictures as the model sees them, keys and values. An older file is
 * replaced only when the new one is complete. May be called from any thread.
 */
OWLET_NODISCARD owlet_status owlet_session_save(owlet_session *session, const char *path, owlet_error **error);

/**
 * Opens a session that owlet_session_save() wrote to `path`, where it stopped: the next answer is what it would have been.
 * Instructions, tools, seed and answer options come from the file; of `options`, which may be NULL, memory and threads count.
 * `adapters` and `scales` are those that were in use, as for owlet_session_set_adapters(). OWLET_STATUS_MISMATCH for another
 * model, other adapters or another precision of keys and values. The caller frees `*out` by owlet_session_free(). May be
 * called from any thread.
 */
OWLET_NODISCARD
owlet_status owlet_session_restore(const owlet_model *model,
                                   const char *path,
                                   const owlet_session_options *options,
                                   const owlet_adapter *const *adapters,
                                   const float *scales,
                                   size_t n_adapters,
                                   owlet_session **out,
                                   owlet_error **error);

/**
 * Copies what was said so far, the instructions apart. The caller frees `*out` by owlet_history_free(). May be called from
 * any thread.
 */
OWLET_NODISCARD
owlet_status owlet_session_get_history(owlet_session *session,
                                       owlet_history **out,
                                       owlet_error **error);

/**
 * How many messages there are; 0 for NULL.
 */
OWLET_NODISCARD size_t owlet_history_length(const owlet_history *history);

/**
 * Tells of message `index`, from 0, in `*out`, whose strings live as long as the history.
 * OWLET_STATUS_INVALID_INPUT beyond the last one.
 */
OWLET_NODISCARD
owlet_status owlet_history_get(const owlet_history *history,
                               size_t index,
                               owlet_history_message *out,
                               owlet_error **error);

/**
 * Frees a history and its strings. NULL is ignored.
 */
void owlet_history_free(owlet_history *history);

/**
 * The text, UTF-8 and NUL-terminated. It belongs to `string` and lives as long; "" for NULL.
 */
OWLET_NODISCARD const char *owlet_string_text(const owlet_string *string);

/**
 * Frees a string. NULL is ignored.
 */
void owlet_string_free(owlet_string *string);

/**
 * What the model answered, without thinking and tags, UTF-8 and NUL-terminated (NULs that it wrote became U+FFFD). The
 * string belongs to the turn and lives as long; "" for NULL.
 */
OWLET_NODISCARD const char *owlet_turn_answer(const owlet_turn *turn);

/**
 * What the model thought before; as owlet_turn_answer().
 */
OWLET_NODISCARD const char *owlet_turn_thinking(const owlet_turn *turn);

/**
 * Tells the numbers of a turn in `*out`, whose `struct_size` the caller sets.
 */
OWLET_NODISCARD owlet_status owlet_turn_get_report(const owlet_turn *turn, owlet_turn_report *out, owlet_error **error);

/**
 * How many calls of tools the answer has; 0 for NULL. Their results are asked as messages of OWLET_ROLE_TOOL.
 */
OWLET_NODISCARD size_t owlet_turn_count_calls(const owlet_turn *turn);

/**
 * Gives call `index`, from 0: the tool's name, and its arguments as a JSON object, which was not checked against the tool's
 * schema. Strings belong to the turn and live as long. OWLET_STATUS_INVALID_INPUT beyond the last one.
 */
OWLET_NODISCARD
owlet_status owlet_turn_get_call(const owlet_turn *turn,
                                 size_t index,
                                 const char **name,
                                 const char **arguments,
                                 owlet_error **error);

/**
 * Frees a turn and its strings. NULL is ignored. The session keeps what was said.
 */
void owlet_turn_free(owlet_turn *turn);

/**
 * The version of the library that is loaded, such as "0.1.0". Compare it with OWLET_VERSION, that of the header. The string
 * is static. May be called from any thread.
 */
OWLET_NODISCARD
const char *owlet_version(void);

/**
 * The version of the library that is loaded as one number, as OWLET_VERSION_NUMBER of the header: 10000 times the major
 * version, 100 times the minor one, and the patch. May be called from any thread.
 */
OWLET_NODISCARD uint32_t owlet_version_number(void);

/** A struct of nothing but defaults. */
static inline owlet_adapt_options owlet_adapt_options_init(void)
{
    owlet_adapt_options value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_reward owlet_reward_init(void)
{
    owlet_reward value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_picture owlet_picture_init(void)
{
    owlet_picture value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_sample owlet_sample_init(void)
{
    owlet_sample value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_evaluation_info owlet_evaluation_info_init(void)
{
    owlet_evaluation_info value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_evaluated_answer owlet_evaluated_answer_init(void)
{
    owlet_evaluated_answer value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_gate_rule owlet_gate_rule_init(void)
{
    owlet_gate_rule value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_verdict_info owlet_verdict_info_init(void)
{
    owlet_verdict_info value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_adapter_info owlet_adapter_info_init(void)
{
    owlet_adapter_info value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_device_info owlet_device_info_init(void)
{
    owlet_device_info value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_message owlet_message_init(void)
{
    owlet_message value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_answer_options owlet_answer_options_init(void)
{
    owlet_answer_options value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_generate_options owlet_generate_options_init(void)
{
    owlet_generate_options value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_answer owlet_answer_init(void)
{
    owlet_answer value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_pixels owlet_pixels_init(void)
{
    owlet_pixels value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_model_info owlet_model_info_init(void)
{
    owlet_model_info value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_model_options owlet_model_options_init(void)
{
    owlet_model_options value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_session_options owlet_session_options_init(void)
{
    owlet_session_options value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_plan_info owlet_plan_info_init(void)
{
    owlet_plan_info value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_score_options owlet_score_options_init(void)
{
    owlet_score_options value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_score owlet_score_init(void)
{
    owlet_score value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_history_message owlet_history_message_init(void)
{
    owlet_history_message value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

/** A struct of nothing but defaults. */
static inline owlet_turn_report owlet_turn_report_init(void)
{
    owlet_turn_report value;
    memset(&value, 0, sizeof(value));
    value.struct_size = sizeof(value);
    return value;
}

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* OWLET_H */
