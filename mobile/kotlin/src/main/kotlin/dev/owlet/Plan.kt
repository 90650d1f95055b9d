package dev.owlet

/** What memory inference is asked for. */
public typealias InferenceRequest = dev.owlet.ffi.InferenceRequest

/** The memory of inference, by part. */
public typealias InferencePlan = dev.owlet.ffi.InferencePlan

/** The memory of training, by part. */
public typealias AdaptationPlan = dev.owlet.ffi.AdaptationPlan

/** What takes memory. */
public typealias PlanPart = dev.owlet.ffi.PlanPart

/** The memory of work that has not begun, from the headers of files. Nothing is loaded. */
public object Plan {
    /**
     * The memory that sessions of the model at [path] will take, with the projector at [mmproj] if they see pictures.
     *
     * @throws OwletException of kind `LIMIT`, with the numbers and what would fit, when there is a budget and nothing fits it.
     */
    public suspend fun inference(
        path: String,
        mmproj: String? = null,
        request: InferenceRequest = InferenceRequest(),
    ): InferencePlan = translating { dev.owlet.ffi.planInference(path, mmproj, request) }

    /**
     * The memory that training over the model at [path] will take, with the projector at [mmproj] if its samples have pictures.
     *
     * @throws OwletException as [inference].
     */
    public suspend fun adaptation(
        path: String,
        mmproj: String? = null,
        options: AdaptOptions = AdaptOptions(),
    ): AdaptationPlan = translating { dev.owlet.ffi.planAdaptation(path, mmproj, options) }
}
